"""What gatefuse's own loops share around their kernels: the inputs of a sequence and the order of its steps, buffers,
what is kept for the backward, and the gradients of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import CellShape, cell_shape
from gatefuse.kernels.equations.program import Program
from gatefuse.kernels.loops.buffers import Backward, Forward, buffer_shapes
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.runtime.settings import interpreted, precision
from gatefuse.kernels.runtime.tf32 import rounded


@dataclass(eq=False)  # frozen, it would take longer to make than a kernel to start
class Sequence:
    """The inputs of a loop, all in one dtype on one device, without gaps.

    Attributes:
        x: (T, B, G * W), of the gates that the input feeds, the input product with its bias; with input_weight the
            input itself, (T, B, I).
        states: (S, B, W), before the first step.
        weight, bias: (G * W, H) and (G * W,) or None, of the gates that R feeds.
        parameters: (P, W).
        restarts, fresh: (T, B) bool and (S, B, W), or both None: where true, the step begins with fresh's states.
        live: (T, B) bool or None; where false, the states stay.
        order: of the steps, "forward", from the first to the last, "reverse", or "both": two directions side by side,
            of H units each, the second from the last step to the first. W is then 2 * H, else H, and restarts are
            (2, T, B).
        input_weight, input_bias: (G * W, I) and (G * W,) or None, for loops that multiply the input themselves.
    """

    cell: Cell
    x: Tensor
    states: Tensor
    weight: Tensor
    bias: Tensor | None
    parameters: Tensor
    restarts: Tensor | None
    fresh: Tensor | None
    live: Tensor | None
    order: str
    input_weight: Tensor | None = None
    input_bias: Tensor | None = None

    @property
    def program(self) -> Program:
        return self.cell.program

    @cached_property
    def shape(self) -> CellShape:
        return cell_shape(self.cell)

    @property
    def T(self) -> int:
        return self.x.shape[0]

    @property
    def B(self) -> int:
        return self.x.shape[1]

    @property
    def H(self) -> int:
        return self.weight.shape[1]

    @property
    def W(self) -> int:
        return self.states.shape[2]

    @property
    def directions(self) -> int:
        return 2 if self.order == "both" else 1

    @property
    def reverse(self) -> bool:
        """Of a loop that runs one direction: from the last step to the first."""
        return self.order == "reverse"

    def steps(self) -> Iterator[tuple[int, int, int]]:
        """(step, the one run before it, the one run after it), -1 for none, in the order in which they run."""
        last = self.T - 1
        for i in range(self.T):
            t, ahead = (last - i, -1) if self.reverse else (i, 1)
            yield t, t - ahead if i else -1, t + ahead if i < last else -1

    def weights(self) -> list[Tensor]:
        """Each product's rows of the weights, (gates * W, H); of a reduction none."""
        return [self._rows(self.weight, () if p.reduces else p.gates) for p in self.program.products]

    def columns_weight(self) -> Tensor:
        """The weights in the order of the columns, (columns * W, H), as kernels multiply them: rounded where that is in
        tf32. Of a reduction's column they are zero, and nobody reads them."""
        found = self._rows(self.weight, self.program.columns).contiguous()
        return rounded(found) if precision(found.dtype) == "tf32" and not interpreted() else found

    def columns_bias(self) -> Tensor | None:
        """The bias in the order of the columns, zero of a reduction."""
        if self.bias is None or self.program.in_order:
            return self.bias
        return self._rows(self.bias, self.program.columns)

    def _rows(self, weight: Tensor, gates: tuple[int, ...]) -> Tensor:
        G = len(self.cell.recurrent_gates)
        if gates == tuple(range(G)):
            return weight
        parts = weight.chunk(G) if G else ()
        none = weight.new_zeros(self.W, *weight.shape[1:]) if -1 in gates else weight
        return torch.cat([parts[g] if g >= 0 else none for g in gates]) if gates else weight[:0]

    def columns(self, r: Tensor, k: int) -> Tensor:
        """Product k's columns of a tensor (..., columns * W)."""
        p = self.program.products[k]
        return r[..., p.first * self.W : (p.first + len(p.gates)) * self.W]

    def buffers(self, save: bool, all_states: bool) -> Forward:
        """What a forward fills: empty, but for the finals, which begin as the states, in float32."""
        shapes = buffer_shapes(self.cell, self.T, self.B, self.W, save, all_states)
        rest, saved, fed, output = debug.empties(self.x, *shapes, (self.T, self.B, self.W))
        return Forward(output, rest, self.states.to(torch.float32, copy=True), saved, fed)

    def gradients(self, d_finals: Tensor) -> Backward:
        """What a backward fills: sums begin at zero, and the states' gradients as those of the finals."""
        x, shape = self.x, self.shape
        # Gates whose x no equation uses have no slot to write their gradient.
        d_x = (debug.empty if self.program.all_inputs else _zeros)(x, self.T, self.B, shape.G * self.W)
        d_r = d_x if shape.ADDITIVE else debug.empty(x, self.T, self.B, shape.COLUMNS * self.W)
        d_carry = d_finals.to(torch.float64 if x.dtype == torch.float64 else torch.float32, copy=True)
        return Backward(d_x, d_r, d_carry, d_carry.new_zeros(shape.P, self.B, self.W), self._d_fresh(d_carry))

    def _d_fresh(self, like: Tensor) -> Tensor | None:
        return None if self.restarts is None else torch.zeros_like(like)


def _zeros(like: Tensor, *shape: int) -> Tensor:
    return like.new_zeros(shape)

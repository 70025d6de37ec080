"""What gatefuse's own loops share around their kernels: the inputs of a sequence and the order of its steps, buffers,
what is kept for the backward, and the gradients of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
        program: the cell's.
        debug: whether buffers start as NaN and programs pause.
        T, B, H, W: sizes, read once, as a loop asks for them again and again.
        directions: 2 side by side, else 1.
        reverse: of a loop that runs one direction: from the last step to the first.
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
    program: Program = field(init=False)
    debug: bool = field(init=False)
    T: int = field(init=False)
    B: int = field(init=False)
    H: int = field(init=False)
    W: int = field(init=False)
    directions: int = field(init=False)
    reverse: bool = field(init=False)

    def __post_init__(self) -> None:
        self.program, self.debug = self.cell.program, debug.on()
        self.T, self.B, _ = self.x.shape
        self.H, self.W = self.weight.shape[1], self.states.shape[2]
        self.directions, self.reverse = 2 if self.order == "both" else 1, self.order == "reverse"

    @cached_property
    def shape(self) -> CellShape:
        return cell_shape(self.cell)

    @cached_property
    def precision(self) -> str:
        """How kernels multiply, as it is asked for in this pass."""
        return precision(self.x.dtype)

    def steps(self) -> list[tuple[int, int, int]]:
        """(step, the one run before it, the one run after it), -1 for none, in the order in which they run."""
        order = list(range(self.T))[:: -1 if self.reverse else 1]
        return list(zip(order, [-1, *order[:-1]], [*order[1:], -1], strict=True)) if order else []

    def weights(self) -> list[Tensor]:
        """Each product's rows of the weights, (gates * W, H); of a reduction none."""
        if self.program.in_order:
            return [self.weight]
        return [self._rows(self.weight, () if p.reduces else p.gates) for p in self.program.products]

    @cached_property
    def columns_weight(self) -> Tensor:
        """The weights in the order of the columns, (columns * W, H), as kernels multiply them: rounded where that is in
        tf32. Of a reduction's column they are zero, and nobody reads them."""
        found = self.weight if self.program.in_order else self._rows(self.weight, self.program.columns)
        found = found.contiguous()
        return rounded(found) if self.precision == "tf32" and not interpreted() else found

    @property
    def multiplied(self) -> Tensor | None:
        """columns_weight, where a kernel has asked for it and it isn't the weights themselves."""
        found = vars(self).get("columns_weight")
        return None if found is self.weight else found

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
        if len(p.gates) == len(self.program.columns):
            return r
        return r[..., p.first * self.W : (p.first + len(p.gates)) * self.W]

    def empty(self, like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
        """As debug.empty, of each shape and in the mode of this pass."""
        if self.debug:
            return [like.new_full(shape, torch.nan) for shape in shapes]
        return [like.new_empty(*shape) for shape in shapes]

    def buffers(self, save: bool, all_states: bool) -> Forward:
        """What a forward fills: empty, but for the finals, which begin as the states, in float32."""
        shapes = buffer_shapes(self.cell, self.T, self.B, self.W, save, all_states)
        rest, saved, fed, output = self.empty(self.x, *shapes, (self.T, self.B, self.W))
        return Forward(output, rest, _own(self.states, torch.float32), saved, fed)

    def gradients(self, d_finals: Tensor | None) -> Backward:
        """What a backward fills: sums begin at zero, and the states' gradients as those of the finals."""
        x, shape, dtype = self.x, self.shape, torch.float64 if self.x.dtype == torch.float64 else torch.float32
        # Gates whose x no equation uses have no slot to write their gradient.
        of_x, of_r = (self.T, self.B, shape.G * self.W), (self.T, self.B, shape.COLUMNS * self.W)
        d_x = self.empty(x, of_x)[0] if self.program.all_inputs else x.new_zeros(of_x)
        d_r = d_x if shape.ADDITIVE else self.empty(x, of_r)[0]
        d_carry = torch.zeros_like(self.states, dtype=dtype) if d_finals is None else _own(d_finals, dtype)
        d_fresh = None if self.restarts is None else torch.zeros_like(d_carry)
        return Backward(d_x, d_r, d_carry, d_carry.new_zeros(shape.P, self.B, self.W), d_fresh)


def _own(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The value in memory of its own."""
    return value.clone() if value.dtype == dtype else value.to(dtype)

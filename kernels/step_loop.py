"""The step driver's time loop: buffers, one product a stage, one fused kernel; backward likewise.

Shapes here: x (T, B, G * H) is the input product with its bias; states (S, B, H); weight (G * H, H); bias (G * H,);
parameters (P, H); restarts and live (T, B) bool. All in one dtype on one device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen import computed, device_functions
from gatefuse.kernels.launch import launch
from gatefuse.kernels.ops import buffer_shapes, fed_products
from gatefuse.kernels.program import Program
from gatefuse.kernels.step_kernels import backward_kernel, update_kernel, vectors_kernel

_BLOCK = 256  # lanes of a program


class CellShape(NamedTuple):
    """A cell's program as the kernels see it, one constexpr.

    X, R: for each slot its gate block of x and its column block of the products, -1 for none. SAVED: its block of the
    values saved for the backward, -1 where x holds it. V: for each product the state it multiplies, -1 where a vector
    is computed. INIT: first values of the states. G, COLUMNS, P: counts. ADDITIVE: d_x serves as d_r too.
    """

    X: tuple[int, ...]
    R: tuple[int, ...]
    SAVED: tuple[int, ...]
    V: tuple[int, ...]
    INIT: tuple[float, ...]
    G: int
    COLUMNS: int
    P: int
    ADDITIVE: bool


def cell_shape(program: Program) -> CellShape:
    """The constexpr view of a program."""
    saved = [k for k, slot in enumerate(program.slots) if slot.column >= 0]
    return CellShape(
        X=tuple(slot.gate for slot in program.slots),
        R=tuple(slot.column for slot in program.slots),
        SAVED=tuple(saved.index(k) if k in saved else -1 for k in range(len(program.slots))),
        V=tuple(p.state for p in program.products),
        INIT=program.cell.init,
        G=len(program.cell.gates),
        COLUMNS=len(program.columns),
        P=len(program.cell.parameters),
        ADDITIVE=program.additive,
    )


@dataclass(frozen=True)
class _Loop:
    """What forward and backward share: the cell, the sizes, the order of the steps."""

    program: Program
    shape: CellShape
    T: int
    B: int
    H: int
    reverse: bool

    @classmethod
    def of(cls, cell: Cell, x: Tensor, states: Tensor, reverse: bool) -> _Loop:
        program = cell.program
        return cls(program, cell_shape(program), x.shape[0], x.shape[1], states.shape[2], reverse)

    def steps(self) -> list[tuple[int, int, int]]:
        """(step, the one run before it, the one run after it), -1 for none, in the order in which they run."""
        order = list(range(self.T))
        if self.reverse:
            order.reverse()
        return [(t, order[k - 1] if k else -1, order[k + 1] if k + 1 < self.T else -1) for k, t in enumerate(order)]

    @property
    def grid(self) -> tuple[int]:
        return (-(-self.B * self.H // _BLOCK),)

    def weights(self, weight: Tensor) -> list[Tensor]:
        """Each product's rows of the weights, (gates * H, H)."""
        return [self._rows(weight, p.gates) for p in self.program.products]

    def bias(self, bias: Tensor | None) -> Tensor | None:
        """The bias in the order of the columns."""
        return None if bias is None else self._rows(bias, self.program.columns)

    def _rows(self, weight: Tensor, gates: tuple[int, ...]) -> Tensor:
        if gates == tuple(range(self.shape.G)):
            return weight
        parts = weight.chunk(self.shape.G)
        return torch.cat([parts[g] for g in gates]) if gates else weight[:0]

    def columns(self, r: Tensor, k: int) -> Tensor:
        """Product k's columns of a tensor (..., columns * H)."""
        p = self.program.products[k]
        return r[..., p.first * self.H : (p.first + len(p.gates)) * self.H]


class Forward(NamedTuple):
    """output (T, B, H), rest (S - 1, T, B, H) or empty, finals (S, B, H), saved and fed for the backward or empty."""

    output: Tensor
    rest: Tensor
    finals: Tensor
    saved: Tensor
    fed: Tensor


def forward(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, live: Tensor | None, reverse: bool, save: bool, all_states: bool,
) -> Forward:  # fmt: skip
    """Run the steps; with save, keep what the backward needs."""
    loop = _Loop.of(cell, x, states, reverse)
    functions, shape, program = device_functions(cell), loop.shape, loop.program
    T, B, H = loop.T, loop.B, loop.H
    rest_shape, saved_shape, fed_shape = buffer_shapes(cell, T, B, H, restarts is not None, save, all_states)
    output, rest, saved = x.new_empty(T, B, H), x.new_empty(rest_shape), x.new_empty(saved_shape)
    fed, r = x.new_empty(fed_shape), x.new_empty(B, shape.COLUMNS * H)
    carry = states.to(torch.float32, copy=True)
    if B * H == 0 or T == 0:
        return Forward(output, rest, carry.to(x.dtype), saved, fed)

    weights = [w.t() for w in loop.weights(weight)]
    r_bias = loop.bias(bias)
    keep = rest_shape[0] > 0
    block = {k: i for i, k in enumerate(fed_products(cell, restarts is not None))}
    sequences = [output, *rest.unbind(0)]
    flags = {"HAS_BIAS": r_bias is not None, "HAS_RESTARTS": restarts is not None, "BLOCK": _BLOCK}
    shared = x, r, r_bias, carry, parameters, restarts
    for t, before, after in loop.steps():
        t_fed = t if save else 0
        if before < 0 and restarts is not None:
            for k, p in enumerate(program.products):
                if p.state >= 0:
                    fed[block[k], t_fed] = torch.where(restarts[t].unsqueeze(1), cell.init[p.state], states[p.state])
        for stage in range(1, program.stages + 1):
            if vectors := functions.vectors[stage - 1]:
                launch(
                    vectors_kernel, loop.grid, *shared, fed, t, t_fed, fed_shape[1], B, H,
                    VECTORS=vectors, TARGETS=tuple(block[k] for k in computed(program, stage)), CELL=shape, **flags,
                )  # fmt: skip
            for k in program.stage_products(stage):
                state = program.products[k].state
                if k in block:
                    vector = fed[block[k], t_fed]
                else:
                    vector = states[state] if before < 0 else sequences[state][before]
                torch.mm(vector, weights[k], out=loop.columns(r, k))
        launch(
            update_kernel, loop.grid, *shared, live, output, rest, saved, fed,
            t, after, after if save else 0, fed_shape[1], T, B, H,
            UPDATE=functions.update, CELL=shape, HAS_LIVE=live is not None, KEEP=keep, SAVE=save, **flags,
        )  # fmt: skip
    return Forward(output, rest, carry.to(x.dtype), saved, fed)


class Gradients(NamedTuple):
    """Gradients of forward's x, states, weight, bias (or None), parameters."""

    x: Tensor
    states: Tensor
    weight: Tensor
    bias: Tensor | None
    parameters: Tensor


def backward(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, live: Tensor | None, reverse: bool, kept: Forward,
    d_output: Tensor, d_rest: Tensor | None, d_finals: Tensor,
) -> Gradients:  # fmt: skip
    """Run the steps backward, then the products over all steps; ``kept`` is what forward returned with save."""
    loop = _Loop.of(cell, x, states, reverse)
    functions, shape, program = device_functions(cell), loop.shape, loop.program
    T, B, H = loop.T, loop.B, loop.H
    # Gates whose x no equation uses have no slot to write their gradient.
    whole = {slot.gate for slot in program.slots} >= set(range(shape.G))
    d_x = torch.empty_like(x) if whole else torch.zeros_like(x)
    d_r = d_x if shape.ADDITIVE else x.new_empty(T, B, shape.COLUMNS * H)
    d_carry = d_finals.to(torch.float32, copy=True)
    d_v = x.new_zeros(len(program.products), B, H)
    d_params = torch.zeros(shape.P, B, H, dtype=torch.float32, device=x.device)

    weights = loop.weights(weight)
    steps = loop.steps() if B * H else []
    for t, before, after in reversed(steps):
        for phase, function in zip(program.phases, functions.backward, strict=True):
            launch(
                backward_kernel, loop.grid, x, kept.saved, states, kept.output, kept.rest, parameters, restarts, live,
                d_carry, d_output, d_rest, d_v, d_x, d_r, d_params, t, before, after, T, B, H,
                BACKWARD=function, EMITS=phase.slots, FINAL=phase.final, CELL=shape,
                HAS_RESTARTS=restarts is not None, HAS_LIVE=live is not None, HAS_D_REST=d_rest is not None,
                BLOCK=_BLOCK,
            )  # fmt: skip
            for k in program.stage_products(phase.stage):
                torch.mm(loop.columns(d_r[t], k), weights[k], out=d_v[k])

    if steps:
        first = steps[0][0]
        for k, p in enumerate(program.products):
            if p.state >= 0:
                d = d_v[k].float()
                d_carry[p.state] += d if restarts is None else torch.where(restarts[first].unsqueeze(1), 0.0, d)
    d_weight, d_bias = _weight_gradients(loop, states, weight, bias, restarts, kept, d_r)
    return Gradients(d_x, d_carry.to(x.dtype), d_weight, d_bias, d_params.sum(1).to(x.dtype))


def _weight_gradients(
    loop: _Loop, states: Tensor, weight: Tensor, bias: Tensor | None, restarts: Tensor | None, kept: Forward,
    d_r: Tensor,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Gradients of the recurrent weights and bias: one large product for each product of a step."""
    G, H = loop.shape.G, loop.H
    blocks: list[Tensor | None] = [None] * G
    fed = fed_products(loop.program.cell, restarts is not None)
    for k, p in enumerate(loop.program.products):
        if k in fed:
            vectors = kept.fed[fed.index(k)]
        else:
            sequence = kept.output if p.state == 0 else kept.rest[p.state - 1]
            parts = [states[p.state : p.state + 1], sequence[:-1]]
            if loop.reverse:
                parts = [sequence[1:], parts[0]]
            vectors = torch.cat(parts)[: loop.T]
        rows = loop.columns(d_r, k).flatten(0, 1)
        product = torch.mm(rows.t(), vectors.flatten(0, 1))
        for gate, block in zip(p.gates, product.chunk(len(p.gates)), strict=True):
            blocks[gate] = block
    zero = weight.new_zeros(H, H)
    d_weight = torch.cat([zero if block is None else block for block in blocks])
    if bias is None:
        return d_weight, None
    d_bias = bias.new_zeros(G, H)
    if loop.program.columns:
        d_bias[list(loop.program.columns)] = d_r.sum((0, 1)).view(-1, H)
    return d_weight, d_bias.flatten()

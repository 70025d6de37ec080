"""What all drivers of gatefuse's own share around their kernels: a cell's shape as a constant, a sequence's sizes and
order, what is kept for the backward, and the gradients of the weights.

Shapes here: x (T, B, G * H) is the input product with its bias; states (S, B, H); weight (G * H, H); bias (G * H,);
parameters (P, H); restarts and live (T, B) bool. All in one dtype on one device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen import computed
from gatefuse.kernels.ops import computed_products
from gatefuse.kernels.program import Program


class CellShape(NamedTuple):
    """A cell's program as the kernels see it, one constexpr.

    X, R: for each slot its gate block of x and its column block of the products, -1 for none. SAVED: its block of the
    values saved for the backward, -1 where x holds it. V: for each product the state it multiplies, -1 where a vector
    is computed. INIT: first values of the states. G, COLUMNS, P: counts. ADDITIVE: d_x serves as d_r too.

    For kernels that run all of a step, by product: FIRST, COUNT, PADDED: its first column, its columns, and these made
    a power of two; STAGE; PLACE: its place among its stage's computed vectors; FED: its block of fed; -1 for none. By
    stage: COMPUTES: it has computed vectors. STAGES: their count. PHASES: the stages of the backward's phases, EMITS:
    the slots whose gradients each yields.
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
    FIRST: tuple[int, ...]
    COUNT: tuple[int, ...]
    PADDED: tuple[int, ...]
    STAGE: tuple[int, ...]
    PLACE: tuple[int, ...]
    FED: tuple[int, ...]
    COMPUTES: tuple[bool, ...]
    STAGES: int
    PHASES: tuple[int, ...]
    EMITS: tuple[tuple[int, ...], ...]


def cell_shape(program: Program) -> CellShape:
    """The constexpr view of a program."""
    saved = [k for k, slot in enumerate(program.slots) if slot.column >= 0]
    products = program.products
    fed = computed_products(program.cell)
    stages = range(1, program.stages + 1)
    among = {k: place for stage in stages for place, k in enumerate(computed(program, stage))}
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
        FIRST=tuple(p.first for p in products),
        COUNT=tuple(len(p.gates) for p in products),
        PADDED=tuple(1 << (len(p.gates) - 1).bit_length() for p in products),
        STAGE=tuple(p.stage for p in products),
        PLACE=tuple(among.get(k, -1) for k in range(len(products))),
        FED=tuple(fed.index(k) if k in fed else -1 for k in range(len(products))),
        COMPUTES=tuple(bool(computed(program, stage)) for stage in stages),
        STAGES=program.stages,
        PHASES=tuple(phase.stage for phase in program.phases),
        EMITS=tuple(phase.slots for phase in program.phases),
    )


@dataclass(frozen=True)
class Sequence:
    """What forward and backward share: the cell, the sizes, the order of the steps."""

    program: Program
    shape: CellShape
    T: int
    B: int
    H: int
    reverse: bool

    @classmethod
    def of(cls, cell: Cell, x: Tensor, states: Tensor, reverse: bool) -> Sequence:
        program = cell.program
        return cls(program, cell_shape(program), x.shape[0], x.shape[1], states.shape[2], reverse)

    def steps(self) -> list[tuple[int, int, int]]:
        """(step, the one run before it, the one run after it), -1 for none, in the order in which they run."""
        order = list(range(self.T))
        if self.reverse:
            order.reverse()
        return [(t, order[k - 1] if k else -1, order[k + 1] if k + 1 < self.T else -1) for k, t in enumerate(order)]

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

    def gate_gradients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Buffers for the gradients of x and of the columns (T, B, columns * H); one where they are the same."""
        # Gates whose x no equation uses have no slot to write their gradient.
        whole = set(self.shape.X) >= set(range(self.shape.G))
        d_x = torch.empty_like(x) if whole else torch.zeros_like(x)
        return d_x, d_x if self.shape.ADDITIVE else x.new_empty(self.T, self.B, self.shape.COLUMNS * self.H)


class Forward(NamedTuple):
    """output (T, B, H), rest (S - 1, T, B, H) or empty, finals (S, B, H), saved and fed for the backward or empty."""

    output: Tensor
    rest: Tensor
    finals: Tensor
    saved: Tensor
    fed: Tensor


class Gradients(NamedTuple):
    """Gradients of forward's x, states, weight, bias (or None), parameters."""

    x: Tensor
    states: Tensor
    weight: Tensor
    bias: Tensor | None
    parameters: Tensor


def weight_gradients(
    loop: Sequence, states: Tensor, weight: Tensor, bias: Tensor | None, restarts: Tensor | None, kept: Forward,
    d_r: Tensor,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Gradients of the recurrent weights and bias: one large product for each product of a step."""
    G, H = loop.shape.G, loop.H
    blocks: list[Tensor | None] = [None] * G
    fed = computed_products(loop.program.cell)
    for k, p in enumerate(loop.program.products):
        if k in fed:
            vectors = kept.fed[fed.index(k)]
        else:
            sequence = kept.output if p.state == 0 else kept.rest[p.state - 1]
            parts = [states[p.state : p.state + 1], sequence[:-1]]
            if loop.reverse:
                parts = [sequence[1:], parts[0]]
            vectors = torch.cat(parts)[: loop.T]
            if restarts is not None:
                vectors = torch.where(restarts.unsqueeze(2), loop.shape.INIT[p.state], vectors)
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

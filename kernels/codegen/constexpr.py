"""A cell's program as a constant that kernels are compiled with."""

from __future__ import annotations

from typing import NamedTuple

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.per_cell import per_cell
from gatefuse.kernels.equations.program import computed, computed_products
from gatefuse.kernels.tiling.tiles import many_values


class CellShape(NamedTuple):
    """A cell's program as the kernels see it, one constexpr.

    X, R: for each slot its gate block of x and its column block of the products, -1 for none. SAVED: its block of the
    values saved for the backward, which is its column, -1 where x holds it. V: for each product the state it
    multiplies, -1 where a vector is computed. REDUCES: "" where it multiplies that, else what it is of the vector's
    units, "mean" or "amax"; WEIGHED: for each column whether it has weights, which a reduction's has not. TIES: the
    backward asks which units are the largest. S, G, COLUMNS, P: counts, of states first. MANY_VALUES: as tiles.py
    has it. ADDITIVE: d_x serves as d_r too.

    For kernels that run all of a step, by product: FIRST, COUNT, PADDED: its first column, its columns, and these made
    a power of two; STAGE; PLACE: its place among its stage's computed vectors; FED: its block of fed; -1 for none. By
    stage: COMPUTES: it has computed vectors. STAGES: their count. PHASES: the stages of the backward's phases, EMITS:
    the slots whose gradients each yields. MEETINGS, UNDONE: how often in a step programs that share its products must
    meet, forward, and how many phases have products.
    """

    X: tuple[int, ...]
    R: tuple[int, ...]
    SAVED: tuple[int, ...]
    V: tuple[int, ...]
    REDUCES: tuple[str, ...]
    WEIGHED: tuple[bool, ...]
    TIES: bool
    S: int
    G: int
    COLUMNS: int
    P: int
    MANY_VALUES: bool
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
    MEETINGS: int
    UNDONE: int


@per_cell
def cell_shape(cell: Cell) -> CellShape:
    """The constexpr view of a cell's program."""
    program = cell.program
    products = program.products
    fed = computed_products(cell)
    stages = range(1, program.stages + 1)
    among = {k: place for stage in stages for place, k in enumerate(computed(program, stage))}
    return CellShape(
        X=tuple(slot.gate for slot in program.slots),
        R=tuple(slot.column for slot in program.slots),
        SAVED=tuple(slot.column for slot in program.slots),
        V=tuple(p.state for p in program.products),
        REDUCES=tuple(p.reduces for p in products),
        WEIGHED=tuple(gate >= 0 for gate in program.columns),
        TIES=any(p.reduces == "amax" for p in products),
        S=len(cell.states),
        G=len(cell.x_blocks),
        COLUMNS=len(program.columns),
        P=len(cell.parameters),
        MANY_VALUES=many_values(program),
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
        MEETINGS=len({p.stage for p in products if p.computed}) + bool(products),
        UNDONE=sum(phase.stage > 0 for phase in program.phases),
    )

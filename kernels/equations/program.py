"""The program of a cell: its step as pointwise expressions between products, forward and backward.

A *slot* is a value that a kernel loads for a gate: a_f = x_f + r_f where the equations only ever use that sum, else
x_f and r_f apart. A *stage* is the products that can run at once; most cells have one, gru_reset_first two. A mean
of the units, or the largest, is a product too, without weights: it is known when all of them are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from gatefuse.kernels.equations.expression import INPUT, Expr, input_names, walk
from gatefuse.kernels.equations.products import Product

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell


class Slot(NamedTuple):
    """A value loaded for a gate: row block ``gate`` of x where it is >= 0, plus column block ``column`` of r.

    Row blocks are numbered as the cell's x_blocks.
    """

    name: str
    gate: int
    column: int


@dataclass(frozen=True)
class Phase:
    """One kernel of the backward step: what it computes once the later products are undone.

    Attributes:
        stage: the stage whose products' gradients it yields; 0 where it yields none.
        slots: indices of the slots whose gradients it stores.
        final: it also yields the gradients of the states and the parameters.
    """

    stage: int
    slots: tuple[int, ...]
    final: bool


@dataclass(frozen=True)
class Program:
    """A step of a cell as pointwise expressions between products, of which some are reductions over the units.

    Inputs are named as the slots, the states, the parameters; in the backward also d_<state> for the gradients of the
    new states and d_v<k> for that of product k's vector.
    """

    cell: Cell
    slots: tuple[Slot, ...]
    products: tuple[Product, ...]
    new_states: tuple[Expr, ...]
    d_slots: tuple[Expr, ...]
    d_states: tuple[Expr, ...]
    d_parameters: tuple[Expr, ...]
    phases: tuple[Phase, ...]

    @cached_property
    def stages(self) -> int:
        """How many products follow one another in a step."""
        return max((p.stage for p in self.products), default=0)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """The gate of each column block of r, by its number among the recurrent gates; -1 of a reduction."""
        return tuple(g for p in self.products for g in p.gates)

    @cached_property
    def weighed(self) -> int:
        """How many of them are products with R."""
        return sum(gate >= 0 for gate in self.columns)

    @cached_property
    def in_order(self) -> bool:
        """One product has all gates, in the order of the weights' rows."""
        return len(self.products) == 1 and self.columns == tuple(range(len(self.cell.recurrent_gates)))

    @cached_property
    def all_inputs(self) -> bool:
        """The equations use every block of x."""
        return {slot.gate for slot in self.slots} >= set(range(len(self.cell.x_blocks)))

    @cached_property
    def additive(self) -> bool:
        """Each gate is used only as x + r, in the order of the weights' rows, and x holds nothing else, not even an
        input that no new state uses: dx and dr are one."""
        G = range(len(self.cell.gates))
        two_sided = self.cell.x_blocks == self.cell.recurrent_gates
        return two_sided and self.columns == tuple(G) and [s[1:] for s in self.slots] == [(g, g) for g in G]

    @cached_property
    def idle(self) -> frozenset[str]:
        """What no gradient reaches in a step: "x", "R", names of states and of parameters."""
        given = {f"d_{s}" for s in self.cell.states}
        # a product hands gradients on where its columns have any; later stages first
        for k, p in sorted(enumerate(self.products), key=lambda item: -item[1].stage):
            if any(_holds(self.d_slots[i], given) for i, slot in enumerate(self.slots) if slot.column in p.columns):
                given.add(f"d_v{k}")
        reached = {"x" for d, slot in zip(self.d_slots, self.slots, strict=True) if slot.gate >= 0 and _holds(d, given)}
        for k, p in enumerate(self.products):
            if f"d_v{k}" in given:
                reached |= (set() if p.reduces else {"R"}) | (set() if p.computed else {self.cell.states[p.state]})
        names = *self.cell.states, *self.cell.parameters
        found = zip(names, (*self.d_states, *self.d_parameters), strict=True)
        reached |= {name for name, d in found if _holds(d, given)}
        return frozenset({"x", "R", *names} - reached)

    def text(self) -> str:
        """The step, operation by operation: the same for equal equations, wherever they are written."""
        roots = [*(p.vector for p in self.products), *self.new_states]
        number = {id(e): k for k, e in enumerate(walk(roots))}
        lines = [f"{e.op}{[number[id(a)] for a in e.args]}{e.value!r}" for e in walk(roots)]
        gates: list[object] = [p.reduces or p.gates for p in self.products]
        return "\n".join([*lines, repr((gates, [number[id(root)] for root in roots]))])

    def stage_products(self, stage: int) -> list[int]:
        """Indices of the products of a stage."""
        return [k for k, p in enumerate(self.products) if p.stage == stage]

    def multiplied(self, stage: int) -> list[int]:
        """Of these the ones with R."""
        return [k for k in self.stage_products(stage) if not self.products[k].reduces]

    def reduced(self, stage: int) -> list[int]:
        """Of these the reductions, which come last."""
        return [k for k in self.stage_products(stage) if self.products[k].reduces]


def _holds(d: Expr, given: set[str]) -> bool:
    """Whether a gradient is made of any of these."""
    return not given.isdisjoint(input_names([d]))


def find_sums(cell: Cell, roots: list[Expr]) -> dict[str, tuple[str, str]]:
    """Gates whose x and r are used in one place alone, their sum: gate -> names of the two."""
    users: dict[str, list[Expr]] = {}
    for e in walk(roots):
        for a in e.args:
            if a.op == INPUT:
                users.setdefault(str(a.value), []).append(e)
    for root in roots:
        if root.op == INPUT:
            users.setdefault(str(root.value), []).append(root)
    sums = {}
    for gate in cell.gates:
        x, r = users.get(f"x_{gate}", []), users.get(f"r_{gate}", [])
        if len(x) == 1 and len(r) == 1 and x[0] is r[0] and x[0].op == "add":
            sums[gate] = (f"x_{gate}", f"r_{gate}")
    return sums


def find_slots(
    cell: Cell,
    columns: dict[str, int],
    others: Sequence[str],
    used: set[str],
    gradients: dict[str, Expr],
    sums: set[str],
) -> tuple[tuple[Slot, ...], tuple[Expr, ...]]:
    """The slots and their gradients; ``columns`` of what was asked for, of which ``others`` are no gate's first."""
    slots, d_slots = [], []
    row = {gate: g for g, gate in enumerate(cell.x_blocks)}
    for gate in cell.gates:
        if gate in sums:
            slots.append(Slot(f"a_{gate}", row[gate], columns[f"r_{gate}"]))
            d_slots.append(gradients[f"x_{gate}"])
            continue
        for name, at in ((f"x_{gate}", (row.get(gate, -1), -1)), (f"r_{gate}", (-1, columns.get(f"r_{gate}", -1)))):
            if name in used:
                slots.append(Slot(name, *at))
                d_slots.append(gradients[name])
    for name in cell.inputs:
        if f"x_{name}" in used:
            slots.append(Slot(f"x_{name}", row[name], -1))
            d_slots.append(gradients[f"x_{name}"])
    for name in others:
        if name in used:
            slots.append(Slot(name, -1, columns[name]))
            d_slots.append(gradients[name])
    return tuple(slots), tuple(d_slots)


def find_phases(slots: tuple[Slot, ...], products: list[Product]) -> tuple[Phase, ...]:
    stage_of = {p.first + k: p.stage for p in products for k in range(len(p.gates))}
    stages = max((p.stage for p in products), default=0)
    # Where stage 1 multiplies states as they are, nothing is left to do after its products are undone.
    merged = not any(p.computed for p in products if p.stage == 1)
    phases = []
    for stage in range(stages, 0, -1):
        of_stage = tuple(i for i, s in enumerate(slots) if stage_of.get(s.column) == stage)
        phases.append(Phase(stage, of_stage, False))
    rest = tuple(i for i, s in enumerate(slots) if s.column < 0)
    if phases and merged:
        last = phases.pop()
        phases.append(Phase(last.stage, tuple(sorted(last.slots + rest)), True))
    else:
        phases.append(Phase(0, rest, True))
    return tuple(phases)


def unused_gates(program: Program) -> list[str]:
    """Gates of which neither x nor a product reaches a new state."""
    cell = program.cell
    used = _x_blocks(program) | {cell.recurrent_gates[gate] for gate in program.columns if gate >= 0}
    return [gate for gate in cell.gates if gate not in used]


def unused_inputs(program: Program) -> list[str]:
    """Inputs beside the gates that reach no new state."""
    return [name for name in program.cell.inputs if name not in _x_blocks(program)]


def _x_blocks(program: Program) -> set[str]:
    """The blocks of x that the equations use."""
    return {program.cell.x_blocks[slot.gate] for slot in program.slots if slot.gate >= 0}


def computed(program: Program, stage: int) -> list[int]:
    """Indices of the products of a stage whose vector must be computed."""
    return [k for k in program.stage_products(stage) if program.products[k].computed]


def computed_products(cell: Cell) -> list[int]:
    """Products that multiply no state as it is; what they multiply is kept in fed."""
    return [k for k, p in enumerate(cell.program.products) if p.computed]

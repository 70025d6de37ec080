"""A cell's step for one stream in stages: sums that are computed at once, the products that add to them, and the
equations that follow; and how units are cut into panels."""

from __future__ import annotations

from typing import NamedTuple

from gatefuse.kernels.codegen.llvm import parts
from gatefuse.kernels.codegen.llvm.parts import Part
from gatefuse.kernels.codegen.llvm.processor import Processor
from gatefuse.kernels.codegen.llvm.products.product import blocking
from gatefuse.kernels.equations.program import Program, Slot

INPUT = -1  # in place of a product's number: the input is multiplied


class Segment(NamedTuple):
    """Sums to which one product adds.

    Attributes:
        product: whose vector is multiplied, or INPUT.
        first: the first of the stage's slots, of which there are as many as gates.
        gates: whose rows of the weights are the factors.
    """

    product: int
    first: int
    gates: tuple[int, ...]


class Stage(NamedTuple):
    """Sums that are computed at once, and what follows from them.

    Attributes:
        slots: the sums, in the order in which they lie.
        segments: the products, in their order.
        part: what is computed of the sums and of all before.
        fed: products whose vectors the part computes; the new states where there are none.
        means: the stage's means, by the number among the products, and the slots that they are.
    """

    slots: tuple[Slot, ...]
    segments: tuple[Segment, ...]
    part: Part
    fed: tuple[int, ...]
    means: tuple[tuple[int, Slot], ...] = ()

    @property
    def known(self) -> tuple[Slot, ...]:
        """Slots that are known from this stage on."""
        return *self.slots, *(slot for _, slot in self.means)


def stages(program: Program) -> tuple[Stage, ...]:
    """A step's stages; the first has no product of a state's where vectors are computed before any."""
    found, seen = [], set()
    for number in range(program.stages + 1):
        last = number == program.stages
        part = parts.update(program) if last else parts.vectors(program, number + 1)
        products, reduced = program.multiplied(number), program.reduced(number)
        means = tuple((k, s) for k in reduced for s in program.slots if s.column in program.products[k].columns)
        columns = {c for k in products for c in program.products[k].columns}
        own = [s for s in program.slots if s.column in columns]
        # what is x alone comes with the first part that reads it
        if part is not None:
            own += [s for s in program.slots if s.column < 0 and s.name in part.inputs and s not in seen]
        seen |= set(own)
        if part is None:
            if own or means:
                raise AssertionError("a later stage multiplies what this one yields")
            continue
        fed = () if last else tuple(k for k in program.stage_products(number + 1) if program.products[k].computed)
        found.append(_stage(program, products, own, part, fed)._replace(means=means))
    return tuple(found)


def _stage(program: Program, products: list[int], own: list[Slot], part: Part, fed: tuple[int, ...]) -> Stage:
    """Slots in such an order that each product's lie side by side, and as many of x's as possible."""
    slots = [s for s in own if s.column < 0]
    segments = []
    first, gates = 0, [s.gate for s in slots]
    for k in products:
        of = [s for s in own if s.column in program.products[k].columns]
        both, alone = [s for s in of if s.gate >= 0], [s for s in of if s.gate < 0]
        gates += [s.gate for s in both]
        if gates:
            segments.append(Segment(INPUT, first, tuple(gates)))
        segments.append(Segment(k, len(slots), tuple(program.columns[s.column] for s in both + alone)))
        slots += both + alone
        first, gates = len(slots), []
    if gates:
        segments.append(Segment(INPUT, first, tuple(gates)))
    segments = [s for s in segments if s.gates]
    return Stage(tuple(slots), tuple(segments), part, fed)


class Blocks(NamedTuple):
    """How a layer's units are cut: vectors of a panel, panels, and numbers of a vector."""

    units: int
    panels: int
    lanes: int

    @classmethod
    def of(cls, program: Program, H: int, processor: Processor) -> Blocks:
        lanes = processor.lanes(4)
        columns = max(len(stage.slots) for stage in stages(program))
        units = blocking(columns, 1, H, lanes, processor).units
        return cls(units, -(-H // (units * lanes)), lanes)

    @property
    def across(self) -> int:
        """Units of a panel."""
        return self.units * self.lanes

    @property
    def row(self) -> int:
        """Units in whole panels."""
        return self.panels * self.across


def multiplied(program: Program) -> list[int]:
    """States that products read whole, while new ones are written."""
    return sorted({p.state for p in program.products if not p.computed})


def kept(program: Program) -> list[str]:
    """Slots that a later stage than their own reads."""
    found = stages(program)
    return [
        s.name
        for k, stage in enumerate(found)
        for s in stage.known
        if any(s.name in f.part.inputs for f in found[k + 1 :])
    ]


def work_rows(program: Program) -> int:
    """Rows of units that a step keeps until it ends."""
    return len(multiplied(program)) + sum(len(stage.fed) for stage in stages(program)) + len(kept(program))

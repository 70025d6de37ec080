"""A cell's sequence backward as LLVM: from the last step to the first, phase by phase, each followed by its products.

A phase's part takes the sums that the forward kept, the states before the step and the gradients of those after it. The
gradients of the weights are one product over all steps, which is no affair of this loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from gatefuse.kernels.codegen.llvm.code import I64, Code, Number
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.kept_values import backward_plan
from gatefuse.kernels.codegen.llvm.loops.arguments import apart_slots, backward_fields
from gatefuse.kernels.codegen.llvm.loops.steps import MOST_ROWS, Tile, define_tiles
from gatefuse.kernels.codegen.llvm.parts import OF_UNITS, Part
from gatefuse.kernels.codegen.llvm.processor import Processor
from gatefuse.kernels.codegen.llvm.products.ahead import AS_THEY_LIE
from gatefuse.kernels.codegen.llvm.products.packing import Share, pack_backward
from gatefuse.kernels.codegen.llvm.products.product import Blocking, products
from gatefuse.kernels.codegen.llvm.reductions import count
from gatefuse.kernels.codegen.llvm.routines import Module
from gatefuse.kernels.codegen.llvm.vectors import Float
from gatefuse.kernels.equations.program import Phase, Program, computed_products


def backward_module(program: Program, kind: Float, blocking: Blocking, processor: Processor) -> Module:
    """A module with run(arguments), for the fields of backward_fields."""
    module = Module(f"{program.cell.name} backward", processor)
    fields, (found, kept) = backward_fields(program), backward_plan(program)
    for part in found:
        part.define(module, kind)
    _Backward(module, program, fields, kind, blocking, found, kept).define()

    def prepare(code: Code, given: dict[str, Number], share: Share) -> None:
        with code.when(given["layout"].compare("!=", AS_THEY_LIE)):
            pack_backward(code, kind, program, blocking.units, share, given["H"], given["pack"], given["weight"])

    define_tiles(module, fields, prepare)
    return module


def readable_as_they_lie(program: Program) -> bool:
    """Whether weights that aren't laid out can be multiplied by: those of a product's gates lie one after the other."""
    return all(
        p.gates == tuple(range(p.gates[0], p.gates[0] + len(p.gates))) for p in program.products if not p.reduces
    )


class _Backward(Tile):
    def __init__(
        self, module: Module, program: Program, fields: Fields, kind: Float, blocking: Blocking,
        found: Sequence[Part], kept: Sequence[str],
    ):  # fmt: skip
        super().__init__(module, fields, kind, blocking, len(program.cell.states))
        self.program, self._parts, self._kept = program, found, list(kept)
        self._fed = computed_products(program.cell)
        self._pointers = self.code.room(I64, MOST_ROWS)
        self._sums = self.code.room(kind.vector, blocking.units * blocking.rows)
        self._zeros = self.code.room(kind.vector, blocking.units)
        self._gates = {slot.name: slot.gate for slot in program.slots}
        self._columns = {slot.name: slot.column for slot in program.slots}
        self._apart = apart_slots(program)

    def define(self) -> None:
        code, given, program = self.code, self.given, self.program
        columns = len(program.columns)
        for u in range(self.blocking.units):
            self.vectors.store(self.vectors.number(0.0), self._zeros + u * self.kind.lanes * self.kind.size)
        with code.loop("step", 0, given["T"]) as back:
            i = given["T"] - 1 - back
            t, before = self.time(i)
            self._t, self._d_x = t, given["d_x"] + t * given["d_x_step"]
            self._d_r = given["d_r"] + t * self.state_bytes * columns
            self._saved = given["sums"] + t * given["sums_step"]
            self._d_output = given["d_output"] + t * self.state_bytes
            self._d_rest = given["d_rest"] + t * self.state_bytes
            first = i.compare("==", 0)

            def states(sample: Number) -> list[Number]:
                found = range(len(self.before))
                return [code.choose(first, self.begin(s, sample), self.out(s, before, sample)) for s in found]

            self.find_rows(t, states, self._over)
            self._step()
            with code.when(given["restarts"].compare("!=", 0)), code.loop("row", 0, self.count) as place:
                sample = self.row(place)
                with code.when(self.restarted(t, sample)):
                    self._begin(sample)
        code.finish()

    def _over(self, sample: Number) -> None:
        """A step that a sample doesn't have: its states' gradients go on, and nothing else has any."""
        code, program, given = self.code, self.program, self.given
        columns = len(program.columns)
        code.clear(self._d_x + sample * given["d_x_row"], self.row_bytes * len(program.cell.input_gates))
        for k in range(len(program.cell.inputs)):
            with code.when(given[f"d_beside{k}"].compare("!=", 0)):
                code.clear(self._d_beside(k, sample), self.row_bytes)
        if columns:
            code.clear(self._d_r + sample * self.row_bytes * columns, self.row_bytes * columns)

        def add(_: Number, unit: Number, mask: Any) -> None:
            for s in range(len(self.before)):
                self._store_state(s, sample, unit, mask, self._after(s, sample, unit, mask))

        with self.my_units() as first:
            self.each_vector(first, 1, add)

    def _d_beside(self, k: int, sample: Number) -> Number:
        """Where the gradient of input k beside the gates lies, unit 0."""
        given = self.given
        return given[f"d_beside{k}"] + self._t * given["d_beside_step"] + sample * given["d_beside_row"]

    def _begin(self, sample: Number) -> None:
        """A sample that began anew with the step: what its states before would get goes to fresh."""

        def move(unit: Number, mask: Any) -> None:
            v, at = self.vectors, sample * self.row_bytes + unit * self.kind.size
            for s in range(len(self.before)):
                d_fresh, d_state = (self.given[name] + self.state_bytes * s + at for name in ("d_fresh", "d_states"))
                v.store(v.add(v.load(d_fresh, mask), v.load(d_state, mask)), d_fresh, mask)
                v.store(v.number(0.0), d_state, mask)

        with self.my_units() as first:
            self.each_vector(first, 1, lambda _, unit, mask: move(unit, mask))

    def _step(self) -> None:
        program = self.program
        for part, phase in zip(self._parts, program.phases, strict=True):
            with self.code.loop("row", 0, self.count) as place, self.my_units() as first:
                self.each_vector(first, 1, partial(self._run, part, phase, place))
            self.meet()
            later = [k for k in program.stage_products(phase.stage) if program.products[k].computed]
            for product in later:
                if program.products[product].reduces:
                    self._spread(product)
                else:
                    self._product(product)
            if later:
                self.meet()
        found = [k for k, p in enumerate(program.products) if not p.computed]
        for product in found:
            self._product(product)
        if found:
            self.meet()

    def _after(self, s: int, row: Number, unit: Number, mask: Any) -> Any:
        """The gradient of state s after the step: the later steps' and that of its sequence."""
        v, given = self.vectors, self.given
        at = row * self.row_bytes + unit * self.kind.size
        later = v.load(given["d_states"] + self.state_bytes * s + at, mask)
        if s == 0:
            return v.add(later, v.load(self._d_output + at, mask))
        total = self.code.variable(self.kind.vector, later)
        with self.code.when(given["d_rest"].compare("!=", 0)):
            own = v.load(self._d_rest + given["d_rest_state"] * (s - 1) + at, mask)
            total.set(v.add(later, own))
        return total.get()

    def _store_state(self, s: int, row: Number, unit: Number, mask: Any, value: Any) -> None:
        at = self.given["d_states"] + self.state_bytes * s + row * self.row_bytes + unit * self.kind.size
        self.vectors.store(value, at, mask)

    def _run(self, part: Part, phase: Phase, place: Number, _: Number, unit: Number, mask: Any) -> None:
        """A phase's part for a vector of units of the row at that place."""
        program, v, given, cell = self.program, self.vectors, self.given, self.program.cell
        row, at = self.row(place), unit * self.kind.size
        N, columns = len(cell.input_gates), len(program.columns)

        def value(name: str) -> Any:
            if name in self._gates:
                if (column := self._columns[name]) >= 0:
                    kept = self._saved + given["sums_column"] * column + row * given["sums_row"]
                    return v.load(kept + at, mask)
                x = given[f"x{self._apart.index(name)}"] + self._t * given["x_step"] + row * given["x_row"]
                return v.load(x + at, mask)
            if name in cell.states:
                pointers = self.before[cell.states.index(name)]
                return v.load(self.code.load_number(pointers + place * 8) + at, mask)
            if name in cell.parameters:
                return v.load(given[f"parameter{cell.parameters.index(name)}"] + at, mask)
            if name in self._kept:
                return v.load(self.kept(self._kept.index(name), row) + at, mask)
            if name == OF_UNITS:
                return self.of_units
            if name in (names := [f"d_{s}" for s in cell.states]):
                return self._after(names.index(name), row, unit, mask)
            k = self._fed.index(int(name.removeprefix("d_v")))
            return v.load(given["d_fed"] + self.state_bytes * k + row * self.row_bytes + at, mask)

        results = iter(part.call(self.code, [value(name) for name in part.inputs]))
        for i in phase.slots:
            slot, d = program.slots[i], next(results)
            if slot.column >= 0:
                v.store(d, self._d_r + (row * columns + slot.column) * self.row_bytes + at, mask)
            if slot.gate >= N:
                with self.code.when(given[f"d_beside{slot.gate - N}"].compare("!=", 0)):
                    v.store(d, self._d_beside(slot.gate - N, row) + at, mask)
            elif slot.gate >= 0 and not program.additive:
                v.store(d, self._d_x + row * given["d_x_row"] + self.row_bytes * slot.gate + at, mask)
        if phase.final:
            for s in range(len(cell.states)):
                self._store_state(s, row, unit, mask, next(results))
            for k in range(len(cell.parameters)):
                total = given["d_parameters"] + self.state_bytes * k + row * self.row_bytes + at
                v.store(v.add(v.load(total, mask), next(results)), total, mask)
        for number in part.kept:
            v.store(next(results), self.kept(number, row) + at, mask)

    def _spread(self, k: int) -> None:
        """The gradient of what reduction k is of: of a mean all units share it, of the largest those that are."""
        program, v, given, width = self.program, self.vectors, self.given, self.row_bytes
        p, place = program.products[k], self._fed.index(k)
        to = given["d_fed"] + self.state_bytes * place
        with self.code.loop("row", 0, self.count) as number:
            row = self.row(number)
            found = self.reduced("mean", self._d_r + (row * len(program.columns) + p.first) * width)
            vector = given["fed"] + given["fed_product"] * place + self._t * given["fed_step"] + row * width
            largest = None
            if p.reduces == "amax":
                kept = self._saved + given["sums_column"] * p.first + row * given["sums_row"]
                largest = v.load_spread(kept)
                found = v.div(v.div(found, self.of_units), count(v, vector, given["H"], largest))

            def store(unit: Number, mask: Any, found: Any = found, largest: Any = largest) -> None:
                at = unit * self.kind.size
                if largest is not None:
                    own = v.compare("==", v.load(vector + at, mask), largest)
                    # of not-a-number none is the largest, and 0 / 0 the share, as torch has it
                    found = v.mul(v.select(own, v.number(1.0), v.number(0.0)), found)
                v.store(found, to + row * width + at, mask)

            with self.my_units() as first:
                self.each_vector(first, 1, lambda _, unit, mask: store(unit, mask))

    def _product(self, k: int) -> None:
        """The gradient of product k's vector: its state's, to which it is added, or a computed one's."""
        program, code, v, given = self.program, self.code, self.vectors, self.given
        p, H, units = program.products[k], self.given["H"], self.blocking.units
        vector = self.kind.lanes * self.kind.size
        width, across = units * vector, units * self.kind.lanes
        K, panels = H * len(p.gates), (H + (across - 1)) // across
        columns = len(program.columns)
        if p.computed:
            to = given["d_fed"] + self.state_bytes * self._fed.index(k)
        else:
            to = given["d_states"] + self.state_bytes * p.state
        with code.loop("row", 0, self.count) as place:
            gradient = self._d_r + (self.row(place) * columns + p.first) * self.row_bytes
            code.store_number(gradient, self._pointers + place * 8)
        before = sum(len(each.gates) for each in program.products[:k] if not each.reduces)
        pack = given["pack"] + panels * before * H * width
        with self.my_panels(panels) as j, self.parts(self.blocking.rows) as (first, count):
            rows = count, self._pointers + first * 8
            sums = self._zeros, self._sums, code.number(width), K
            if readable_as_they_lie(program):
                # whole panels, of gates one after the other
                lies = given["layout"].compare("==", AS_THEY_LIE)
                there = given["weight"] + (H * H * p.gates[0] + j * across) * self.kind.size
                panel = code.choose(lies, there, pack + j * (K * width))
                step = code.choose(lies, self.row_bytes, code.number(width))
                code.run(products(code.module, self.kind, *self.blocking, True), *rows, panel, *sums, step)
            else:
                code.run(products(code.module, self.kind, *self.blocking), *rows, pack + j * (K * width), *sums)

            def put(row: Number, u: Number, unit: Number, mask: Any) -> None:
                at = to + self.row(first + row) * self.row_bytes + unit * self.kind.size
                value = v.load(self._sums + row * width + u * vector)
                v.store(value if p.computed else v.add(value, v.load(at, mask)), at, mask)

            with code.loop("row", 0, count) as row:
                self.each_vector(j * across, units, lambda u, unit, mask: put(row, u, unit, mask))

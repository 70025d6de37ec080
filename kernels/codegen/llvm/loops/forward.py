"""A cell's sequence forward as LLVM: a stage's product, and on its sums, still in the cache, what follows from them.

Of the values between the stages none is kept but those that a later stage or the backward reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gatefuse.kernels.codegen.llvm.code import I64, Code, Number
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.kept_values import forward_plan
from gatefuse.kernels.codegen.llvm.loops.arguments import apart_slots, beside, forward_fields
from gatefuse.kernels.codegen.llvm.loops.prefetch import Prefetch
from gatefuse.kernels.codegen.llvm.loops.steps import MOST_ROWS, Tile, define_tiles
from gatefuse.kernels.codegen.llvm.parts import OF_UNITS, Part
from gatefuse.kernels.codegen.llvm.processor import Processor
from gatefuse.kernels.codegen.llvm.products.ahead import AS_THEY_LIE, LAID_OUT_NOW, Ahead
from gatefuse.kernels.codegen.llvm.products.packing import Share, forward_panel, pack_forward, pack_rows, stage_columns
from gatefuse.kernels.codegen.llvm.products.product import Blocking, input_blocking
from gatefuse.kernels.codegen.llvm.products.stage_products import StageProducts
from gatefuse.kernels.codegen.llvm.routines import Module
from gatefuse.kernels.codegen.llvm.vectors import Float
from gatefuse.kernels.equations.program import Program, computed_products


def forward_module(program: Program, kind: Float, blocking: Blocking, processor: Processor) -> Module:
    """A module with run(arguments), for the fields of forward_fields."""
    module = Module(f"{program.cell.name} forward", processor)
    inputs = input_blocking(processor)
    fields, (found, kept) = forward_fields(program), forward_plan(program)
    for part in found:
        part.define(module, kind)
    _Forward(module, program, fields, kind, blocking, inputs, found, kept).define()

    def prepare(code: Code, given: dict[str, Number], share: Share) -> None:
        places = given["pack"], given["weight"], given["bias"]
        now = given["layout"].compare("==", LAID_OUT_NOW)
        with code.when(now):
            pack_forward(code, kind, program, blocking.units, share, given["H"], *places)
        with code.when(code.builder.and_(now, given["input_weight"].compare("!=", 0))):
            N, places = (
                given["H"] * len(program.cell.input_gates),
                (given["input_pack"], given["input_weight"], given["input_bias"]),
            )
            pack_rows(code, kind, inputs.units, share, N, given["I"], *places)

    define_tiles(module, fields, prepare)
    return module


class _Forward(Tile):
    def __init__(
        self, module: Module, program: Program, fields: Fields, kind: Float, blocking: Blocking, inputs: Blocking,
        found: Sequence[Part], kept: Sequence[str],
    ):  # fmt: skip
        super().__init__(module, fields, kind, blocking, len(program.cell.states))
        self.program, self._parts, self._kept = program, {part.name: part for part in found}, list(kept)
        self._fed = computed_products(program.cell)
        self._vectors = [self.code.room(I64, MOST_ROWS) for _ in self._fed]
        widest = max((len(stage_columns(program, s + 1)) for s in range(program.stages)), default=0)
        self._sums = self.code.room(kind.vector, max(1, widest * blocking.units * blocking.rows))
        self._products = StageProducts(self, program, self._sums, self._vector)
        self._gates = {slot.name: slot.gate for slot in program.slots}
        self._columns = {slot.name: slot.column for slot in program.slots}
        self._later, self._apart = _read_later(program, found), apart_slots(program)
        self._states = [self.code.room(I64, MOST_ROWS) for _ in program.cell.states]
        # of each row a stage's means
        most = max((len(program.reduced(s + 1)) for s in range(program.stages)), default=0)
        self._means = self.code.room(kind.vector, max(1, most * MOST_ROWS))
        self._ahead = Ahead(self, inputs, len(program.cell.input_gates))

    def define(self) -> None:
        code, given, states = self.code, self.given, range(len(self.program.cell.states))
        with code.loop("sample", self.first, self.last) as sample:
            for s in states:
                self._set_now(s, sample, self.begin(s, sample))
        with code.loop("step", 0, given["T"]) as i:
            t, _ = self.time(i)
            self._t = t
            self._saved = given["sums"] + t * given["sums_step"]
            self._ahead.run(i)
            self.find_rows(t, self._take, self._over)
            self._ahead.find(t)
            self._step()
        with code.loop("sample", self.first, self.last) as sample:
            for s in states:
                code.move(given[f"final{s}"] + sample * self.row_bytes, self._now(s, sample), self.row_bytes)
        code.finish()

    def _now(self, s: int, sample: Number) -> Number:
        """Where state s of a sample lies after the last step that it had."""
        return self.code.load_number(self._states[s] + (sample - self.first) * 8)

    def _set_now(self, s: int, sample: Number, at: Number) -> None:
        self.code.store_number(at, self._states[s] + (sample - self.first) * 8)

    def _take(self, sample: Number) -> list[Number]:
        found = [self._now(s, sample) for s in range(len(self._states))]
        for s in range(len(found)):
            self._set_now(s, sample, self.out(s, self._t, sample))
        return found

    def _over(self, sample: Number) -> None:
        """A step that a sample doesn't have."""
        code = self.code
        with code.either(self.given["ends"].compare("!=", 0)) as (zero, stay):
            with zero:
                code.clear(self.out(0, self._t, sample), self.row_bytes)
            with stay:
                for s in range(len(self._states)):
                    code.move(self.out(s, self._t, sample), self._now(s, sample), self.row_bytes)
                # what is kept says nothing, but the gradient of the weights multiplies computed vectors with zero
                with code.when(self.given["save"].compare("!=", 0)):
                    code.clear(self._saved + sample * self.given["sums_row"], self.given["sums_row"])
                    for place in range(len(self._fed)):
                        code.clear(self._computed(place) + sample * self.row_bytes, self.row_bytes)

    def _step(self) -> None:
        program, code, given = self.program, self.code, self.given
        for place, pointers in enumerate(self._vectors):
            base = self._computed(place)
            with code.loop("row", 0, self.count) as k:
                code.store_number(base + self.row(k) * self.row_bytes, pointers + k * 8)
        if not program.weighed:
            step = code.choose(given["reverse"].compare("!=", 0), code.number(0) - given["x_step"], given["x_step"])
            self._of_x = Prefetch(self, given["x_row"], step)
        first = self._parts.get("vectors_1" if program.stages else "update")
        if first is not None:
            self._pass(first, 0 if program.stages else 1)
        pack = given["pack"]
        for stage in range(1, program.stages + 1):
            pack = self._stage(stage, pack)

    def _computed(self, place: int) -> Number:
        """Where the step's vectors of a computed product lie."""
        return self.given["fed"] + self.given["fed_product"] * place + self._t * self.given["fed_step"]

    def _pass(self, part: Part, stage: int) -> None:
        """A part for all rows and units, from what is known without a product with R."""
        with self.code.loop("row", 0, self.count) as place, self.my_units() as first:
            self.each_vector(first, 1, lambda _, unit, mask: self._run(part, stage, place, unit, mask, None))
        self.meet()

    def _stage(self, stage: int, pack: Number) -> Number:
        """A stage's means, then its products, panel by panel, and the part that follows; returns where the
        next one's panels lie."""
        program, code, given, units = self.program, self.code, self.given, self.blocking.units
        vector, H = self.kind.lanes * self.kind.size, self.given["H"]
        width = len(stage_columns(program, stage)) * units * vector  # bytes of a row's sums
        panel, across = forward_panel(program, stage, units, self.kind, H), units * self.kind.lanes
        panels = (H + (across - 1)) // across
        part = self._parts["update" if stage == program.stages else f"vectors_{stage + 1}"]
        for place, k in enumerate(program.reduced(stage)):
            with code.loop("row", 0, self.count) as row:
                found = self.reduced(program.products[k].reduces, code.load_number(self._vector(k, row)))
                self.vectors.store(found, self._mean(place, row))
        if not stage_columns(program, stage):
            self._pass(part, stage)
            return pack
        with self.my_panels(panels) as j:
            base = pack + j * panel
            with self.parts(self.blocking.rows) as (first, count):
                with code.either(given["layout"].compare("!=", AS_THEY_LIE)) as (panels_, rows_):
                    with panels_:
                        self._products.of_panel(stage, base, first, count)
                    with rows_:
                        self._products.of_rows(stage, j, first, count)
                with code.loop("row", 0, count) as row:
                    sums = self._sums + row * width
                    self.each_vector(
                        j * across,
                        units,
                        lambda u, unit, mask: self._run(part, stage, first + row, unit, mask, sums + u * vector),
                    )
        self.meet()
        return pack + panels * panel

    def _vector(self, k: int, first: Number) -> Number:
        """Where the pointers to product k's vectors lie, from a row on."""
        p = self.program.products[k]
        return (self._vectors[self._fed.index(k)] if p.computed else self.before[p.state]) + first * 8

    def _mean(self, place: int, row: Number) -> Number:
        """Where a stage's mean is kept for the row at that place."""
        return self._means + (row + place * MOST_ROWS) * (self.kind.lanes * self.kind.size)

    def _run(self, part: Part, stage: int, place: Number, unit: Number, mask: Any, sums: Number | None) -> None:
        """A part for a vector of units of the row at that place, after that stage's products; the sums lie by column,
        ``units`` vectors apart."""
        program, v, given = self.program, self.vectors, self.given
        row, at, N = self.row(place), unit * self.kind.size, len(program.cell.input_gates)
        own = stage_columns(program, stage) if sums is not None else ()
        reduced = [program.products[k].first for k in program.reduced(stage)]
        apart = self.blocking.units * self.kind.lanes * self.kind.size

        def slot(name: str) -> Any:
            gate, column = self._gates[name], self._columns[name]
            if column in reduced:
                return v.load(self._mean(reduced.index(column), place))
            if column >= 0 and column not in own:
                return v.load(self._sum(column, row) + at, mask)
            x = None
            if gate >= N:
                return v.load(beside(given, gate - N, self._t, row) + at, mask)
            if gate >= 0:
                there = self._ahead.row(place) + self.row_bytes * gate + at
                x = v.load(there, mask)
                if not program.weighed:
                    self._of_x.ask(there, place)
            if column < 0:
                return x
            assert sums is not None
            value = v.load(sums + own.index(column) * apart)
            return value if x is None else v.add(value, x)

        known: dict[str, Any] = {}
        keep = [s.name for s in program.slots if s.column in own or s.column in reduced]
        for name in keep:
            known[name] = slot(name)
            if name in self._later:
                v.store(known[name], self._sum(self._columns[name], row) + at, mask)
        if keep and not set(keep) <= self._later:
            with self.code.when(given["save"].compare("!=", 0)):
                for name in keep:
                    if name not in self._later:
                        v.store(known[name], self._sum(self._columns[name], row) + at, mask)
        if part.name == "update" and self._apart:
            with self.code.when(self.code.builder.and_(given["save"].compare("!=", 0), self._ahead.needed)):
                for k, name in enumerate(self._apart, len(program.columns)):
                    v.store(slot(name), self._sum(k, row) + at, mask)
        for name in part.inputs:
            if name in known:
                continue
            if name in self._gates:
                known[name] = slot(name)
            elif name in program.cell.states:
                pointers = self.before[program.cell.states.index(name)]
                known[name] = v.load(self.code.load_number(pointers + place * 8) + at, mask)
            elif name in self._kept:
                known[name] = v.load(self.kept(self._kept.index(name), row) + at, mask)
            elif name == OF_UNITS:
                known[name] = self.of_units
            else:
                k = program.cell.parameters.index(name)
                known[name] = v.load(given[f"parameter{k}"] + at, mask)
        results = part.call(self.code, [known[name] for name in part.inputs])
        if part.name == "update":
            places = [self.out(s, self._t, row) + at for s in range(len(self._states))]
        else:
            found = [self._fed.index(k) for k in _of_stage(program, stage + 1)]
            places = [self.code.load_number(self._vectors[k] + place * 8) + at for k in found]
        places += [self.kept(number, row) + at for number in part.kept]
        for result, where in zip(results, places, strict=True):
            v.store(result, where, mask)

    def _sum(self, column: int, row: Number) -> Number:
        """Where the sum of a column and a row is kept, unit 0."""
        return self._saved + self.given["sums_column"] * column + row * self.given["sums_row"]


def _of_stage(program: Program, stage: int) -> list[int]:
    """Its products that multiply no state as it is."""
    return [k for k in program.stage_products(stage) if program.products[k].computed]


def _read_later(program: Program, found: Sequence[Part]) -> set[str]:
    """Slots with products that a stage after their own reads."""
    stage_of = {c: p.stage for p in program.products for c in p.columns}
    inputs = {part.name: part.inputs for part in found}
    later = set()
    for stage in range(1, program.stages + 1):
        read = inputs["update" if stage == program.stages else f"vectors_{stage + 1}"]
        later |= {s.name for s in program.slots if s.name in read and stage_of.get(s.column, stage) < stage}
    return later

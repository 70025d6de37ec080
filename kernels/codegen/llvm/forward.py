"""A cell's sequence forward as LLVM: a stage's product, and on its sums, still in the cache, what follows from them.

Of the values between the stages none is kept but those that a later stage or the backward reads.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm import parts
from gatefuse.kernels.codegen.llvm.code import I64, Code, Number
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.packing import define_turned, forward_panel, pack_forward, stage_columns
from gatefuse.kernels.codegen.llvm.parts import Part
from gatefuse.kernels.codegen.llvm.product import Blocking, define_products
from gatefuse.kernels.codegen.llvm.steps import MOST_ROWS, Tile, define_run
from gatefuse.kernels.codegen.llvm.vectors import Float
from gatefuse.kernels.equations.program import Program, computed_products

_COMMON = ("T", "B", "H", "reverse", "tiles", "next", "threads", "pool", "parameters", "restarts", "fresh", "live", "first")


def common_fields(program: Program) -> tuple[str, ...]:
    """Arguments of both ways: sizes; tiles, the next one, threads and GOMP_parallel's address or 0; where inputs and first
    states lie; of each state, where its sequence lies and how many bytes on its next step is."""
    places = [f"{name}{s}" for s in range(len(program.cell.states)) for name in ("out", "step")]
    return *_COMMON, *places, "sums", "sums_column", "sums_step", "sums_row"


def forward_fields(program: Program) -> Fields:
    """Also x, weights, bias or 0, and memory for their panels; whether sums are kept for the backward; computed vectors,
    with the bytes from one product's, and one step's, to the next; the final states."""
    more = "x", "weight", "bias", "pack", "save", "fed", "fed_product", "fed_step", "finals"
    return Fields((*common_fields(program), *more))


def forward_module(program: Program, kind: Float, blocking: Blocking, triple: str) -> ir.Module:
    """A module with run(arguments), for the fields of forward_fields."""
    module = ir.Module(f"{program.cell.name} forward")
    module.triple = triple
    fields = forward_fields(program)
    for part in parts.forward_parts(program):
        part.define(module, kind)
    define_turned(module, kind)
    for p in program.products:
        define_products(module, kind, len(p.gates) * blocking.units, blocking.rows)
    _Forward(module, program, fields, kind, blocking).define()

    def prepare(code: Code, given: dict[str, Number]) -> None:
        places = given["H"], given["pack"], given["weight"], given["bias"]
        pack_forward(code, kind, program, blocking.units, *places)

    define_run(module, fields, prepare)
    return module


class _Forward(Tile):
    def __init__(self, module: ir.Module, program: Program, fields: Fields, kind: Float, blocking: Blocking):
        super().__init__(module, fields, kind, blocking, len(program.cell.states))
        self.program = program
        self._fed = computed_products(program.cell)
        self._vectors = [self.code.room(I64, MOST_ROWS) for _ in self._fed]
        widest = max((len(stage_columns(program, s + 1)) for s in range(program.stages)), default=0)
        self._sums = self.code.room(kind.vector, max(1, widest * blocking.units * blocking.rows))
        self._gates = {slot.name: slot.gate for slot in program.slots}
        self._columns = {slot.name: slot.column for slot in program.slots}
        self._later = _read_later(program)

    def define(self) -> None:
        code, given, states = self.code, self.given, range(len(self.program.cell.states))
        with code.loop("step", 0, given["T"]) as i:
            t, before = self.time(i)
            self._out = [given[f"out{s}"] + t * given[f"step{s}"] for s in states]
            self._x = given["x"] + t * self.state_bytes * len(self.program.cell.gates)
            self._saved = given["sums"] + t * given["sums_step"]

            def over(sample: Number, now: list[Number]) -> None:
                for s in states:
                    code.move(self._out[s] + sample * self.row_bytes, now[s], self.row_bytes)

            self.find_rows(i, t, before, over)
            self._step(t)
        last, _ = self.time(given["T"] - 1)
        size = (self.last - self.first) * self.row_bytes
        for s in states:
            place = given["finals"] + self.state_bytes * s + self.first * self.row_bytes
            code.move(place, given[f"out{s}"] + last * given[f"step{s}"] + self.first * self.row_bytes, size)
        code.finish()

    def _step(self, t: Number) -> None:
        program, code, given = self.program, self.code, self.given
        for place, pointers in enumerate(self._vectors):
            base = given["fed"] + given["fed_product"] * place + t * given["fed_step"]
            with code.loop("row", 0, self.count) as k:
                code.store_number(base + self.row(k) * self.row_bytes, pointers + k * 8)
        first = parts.update(program) if not program.stages else parts.vectors(program, 1)
        if first is not None:
            self._pass(first, 0 if program.stages else 1)
        pack = given["pack"]
        for stage in range(1, program.stages + 1):
            pack = self._stage(stage, pack)

    def _pass(self, part: Part, stage: int) -> None:
        """A part for all rows and units, from what is known before any product."""
        code, lanes = self.code, self.kind.lanes
        with code.loop("row", 0, self.count) as place, code.loop("unit", 0, self.given["H"], lanes) as first:
            self.each_vector(first, 1, lambda _, unit, mask: self._run(part, stage, place, unit, mask, None))

    def _stage(self, stage: int, pack: Number) -> Number:
        """A stage's products, panel by panel, and the part that follows; returns where the next one's panels lie."""
        program, code, units = self.program, self.code, self.blocking.units
        vector, H = self.kind.lanes * self.kind.size, self.given["H"]
        width = len(stage_columns(program, stage)) * units * vector  # bytes of a row's sums
        panel, across = forward_panel(program, stage, units, self.kind, H), units * self.kind.lanes
        panels = (H + (across - 1)) // across
        part = parts.update(program) if stage == program.stages else parts.vectors(program, stage + 1)
        assert part is not None, "a later stage multiplies what this one yields"
        with code.loop("panel", 0, panels) as j:
            base = pack + j * panel
            with self.parts(self.blocking.rows) as (first, count):
                rows, place = base + width, 0
                for k in program.stage_products(stage):
                    p = program.products[k]
                    vectors, offset = len(p.gates) * units, place * units * vector
                    pointers = self._vectors[self._fed.index(k)] if p.computed else self.before[p.state]
                    values = count, pointers + first * 8, rows, base + offset, self._sums + offset, code.number(width), H
                    code.builder.call(code.module.globals[f"products_{vectors}"], [v.value for v in values])
                    rows, place = rows + H * (vectors * vector), place + len(p.gates)
                with code.loop("row", 0, count) as row:
                    sums = self._sums + row * width
                    self.each_vector(
                        j * across,
                        units,
                        lambda u, unit, mask: self._run(part, stage, first + row, unit, mask, sums + u * vector),
                    )
        return pack + panels * panel

    def _run(self, part: Part, stage: int, place: Number, unit: Number, mask: Any, sums: Number | None) -> None:
        """A part for a vector of units of the row at that place, after that stage's product; its sums, by column, lie
        ``units`` vectors apart."""
        program, v, given = self.program, self.vectors, self.given
        row, at = self.row(place), unit * self.kind.size
        here = row * self.row_bytes + at
        own = stage_columns(program, stage) if sums is not None else ()
        apart = self.blocking.units * self.kind.lanes * self.kind.size

        def slot(name: str) -> Any:
            gate, column = self._gates[name], self._columns[name]
            if column >= 0 and column not in own:
                return v.load(self._sum(column, row) + at, mask)
            x = None if gate < 0 else v.load(self._x + (row * len(program.cell.gates) + gate) * self.row_bytes + at, mask)
            if column < 0:
                return x
            assert sums is not None
            value = v.load(sums + own.index(column) * apart)
            return value if x is None else v.add(value, x)

        known: dict[str, Any] = {}
        keep = [s.name for s in program.slots if s.column in own]
        for name in keep:
            known[name] = slot(name)
            if name in self._later:
                v.store(known[name], self._sum(self._columns[name], row) + at, mask)
        if keep and not set(keep) <= self._later:
            with self.code.when(given["save"].compare("!=", 0)):
                for name in keep:
                    if name not in self._later:
                        v.store(known[name], self._sum(self._columns[name], row) + at, mask)
        for name in part.inputs:
            if name in known:
                continue
            if name in self._gates:
                known[name] = slot(name)
            elif name in program.cell.states:
                pointers = self.before[program.cell.states.index(name)]
                known[name] = v.load(self.code.load_number(pointers + place * 8) + at, mask)
            else:
                k = program.cell.parameters.index(name)
                known[name] = v.load(given["parameters"] + self.row_bytes * k + at, mask)
        results = part.call(self.code, [known[name] for name in part.inputs])
        if part.name == "update":
            places = [out + here for out in self._out]
        else:
            found = [self._fed.index(k) for k in _of_stage(program, stage + 1)]
            places = [self.code.load_number(self._vectors[k] + place * 8) + at for k in found]
        for result, where in zip(results, places, strict=True):
            v.store(result, where, mask)

    def _sum(self, column: int, row: Number) -> Number:
        """Where the sum of a column and a row is kept, unit 0."""
        return self._saved + self.given["sums_column"] * column + row * self.given["sums_row"]


def _of_stage(program: Program, stage: int) -> list[int]:
    """Its products that multiply no state as it is."""
    return [k for k in program.stage_products(stage) if program.products[k].computed]


def _read_later(program: Program) -> set[str]:
    """Slots with products that a stage after their own reads."""
    stage_of = {c: p.stage for p in program.products for c in p.columns}
    found = set()
    for stage in range(1, program.stages + 1):
        part = parts.update(program) if stage == program.stages else parts.vectors(program, stage + 1)
        inputs = part.inputs if part is not None else ()
        found |= {s.name for s in program.slots if s.name in inputs and stage_of.get(s.column, stage) < stage}
    return found

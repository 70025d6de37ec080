"""A cell's sequence forward as LLVM: a stage's product, and on its sums, still in the cache, what follows from them.

Of the values between the stages none is kept but those that a later stage or the backward reads.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm import parts
from gatefuse.kernels.codegen.llvm.code import I64, Code, Number
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.packing import Share, define_turned, forward_panel, pack_forward, pack_rows, stage_columns
from gatefuse.kernels.codegen.llvm.parts import Part
from gatefuse.kernels.codegen.llvm.processor import Processor
from gatefuse.kernels.codegen.llvm.product import Blocking, products, input_blocking
from gatefuse.kernels.codegen.llvm.steps import MOST_ROWS, Tile, define_tiles
from gatefuse.kernels.codegen.llvm.team import TEAM
from gatefuse.kernels.codegen.llvm.vectors import Float
from gatefuse.kernels.equations.program import Program, computed_products

# Rows of which the pointers are held at a time.
_AHEAD = 128
_COMMON = (
    *TEAM, "T", "B", "H", "reverse", "together", "tiles", "next", "restarts", "live", "out_row",
)


def common_fields(program: Program) -> tuple[str, ...]:
    """Arguments of both ways: sizes; whether all threads share all samples, or how many tiles there
    are and the next one; where inputs lie; bytes
    of a sample's output; of each state, where it begins and begins anew, where its sequence lies and how many bytes on
    its next step is."""
    places = [f"{name}{s}" for s in range(len(program.cell.states)) for name in ("first", "fresh", "out", "step")]
    parameters = [f"parameter{k}" for k in range(len(program.cell.parameters))]
    return *_COMMON, *places, *parameters, "sums", "sums_column", "sums_step", "sums_row"


def forward_fields(program: Program) -> Fields:
    """Also x, with the bytes of a step and a row; where x is the input itself and no product yet, its features, weights and bias, memory for these in panels
    and for so many steps' products by tile, with the bytes of a row and of a tile, else zeros; weights, bias or 0, and
    memory for their panels; whether sums are kept for the backward; computed vectors, with the bytes from one product's,
    and one step's, to the next; whether the output is zero where a sample has no step, or its states stay in all
    sequences; of each state, where the final one goes."""
    before = "x", "x_step", "x_row", "I", "input_weight", "input_bias", "input_pack", "input_steps", "ahead", "ahead_row", "ahead_tile"
    more = "weight", "bias", "pack", "save", "fed", "fed_product", "fed_step", "ends"
    finals = [f"final{s}" for s in range(len(program.cell.states))]
    return Fields((*common_fields(program), *before, *more, *finals))


def apart_slots(program: Program) -> list[str]:
    """Slots that are x alone: where x is no product yet, they are kept for the backward, after the columns' sums."""
    return [slot.name for slot in program.slots if slot.column < 0]


def forward_module(program: Program, kind: Float, blocking: Blocking, processor: Processor) -> ir.Module:
    """A module with run(arguments), for the fields of forward_fields."""
    module = ir.Module(f"{program.cell.name} forward")
    module.triple = processor.triple
    inputs = input_blocking(processor)
    fields = forward_fields(program)
    for part in parts.forward_parts(program):
        part.define(module, kind)
    define_turned(module, kind)
    _Forward(module, program, fields, kind, blocking, inputs).define()

    def prepare(code: Code, given: dict[str, Number], share: Share) -> None:
        places = given["pack"], given["weight"], given["bias"]
        pack_forward(code, kind, program, blocking.units, share, given["H"], *places)
        with code.when(given["input_weight"].compare("!=", 0)):
            N, places = given["H"] * len(program.cell.gates), (given["input_pack"], given["input_weight"], given["input_bias"])
            pack_rows(code, kind, inputs.units, share, N, given["I"], *places)

    define_tiles(module, fields, prepare)
    return module


class _Forward(Tile):
    def __init__(
        self, module: ir.Module, program: Program, fields: Fields, kind: Float, blocking: Blocking, inputs: Blocking
    ):
        super().__init__(module, fields, kind, blocking, len(program.cell.states))
        self.program, self._input_blocking = program, inputs
        self._fed = computed_products(program.cell)
        self._vectors = [self.code.room(I64, MOST_ROWS) for _ in self._fed]
        widest = max((len(stage_columns(program, s + 1)) for s in range(program.stages)), default=0)
        self._sums = self.code.room(kind.vector, max(1, widest * blocking.units * blocking.rows))
        self._gates = {slot.name: slot.gate for slot in program.slots}
        self._columns = {slot.name: slot.column for slot in program.slots}
        self._later, self._apart = _read_later(program), apart_slots(program)
        self._states = [self.code.room(I64, MOST_ROWS) for _ in program.cell.states]
        self._inputs = self.code.room(I64, _AHEAD)
        self._x_rows = self.code.room(I64, MOST_ROWS)
        self._taken, self._waiting = (self.code.variable(I64, I64(0)) for _ in range(2))

    def define(self) -> None:
        code, given, states = self.code, self.given, range(len(self.program.cell.states))
        self._raw = given["input_weight"].compare("!=", 0)
        with code.loop("sample", self.first, self.last) as sample:
            for s in states:
                self._set_now(s, sample, self.begin(s, sample))
        with code.loop("step", 0, given["T"]) as i:
            t, _ = self.time(i)
            self._t = t
            self._saved = given["sums"] + t * given["sums_step"]
            with code.when(self._raw), code.when(i.modulo(given["input_steps"]).compare("==", 0)):
                self._multiply_inputs(i, (i + given["input_steps"]).least(given["T"]))
            self.find_rows(t, self._take, self._over)
            self._find_x(t)
            self._step(t)
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

    def _multiply_inputs(self, first: Number, last: Number) -> None:
        """The input's product, of all rows that the steps from first to last will find."""
        code = self.code
        self._taken.set(I64(0))
        self._waiting.set(I64(0))

        def take(t: Number, sample: Number) -> None:
            waiting = Number(code, self._waiting.get())
            code.store_number(self._x(t, sample), self._inputs + waiting * 8)
            self._waiting.set((waiting + 1).value)
            with code.when((waiting + 1).compare("==", _AHEAD)):
                self._multiply_waiting()

        self.walk(first, last, take)
        self._multiply_waiting()
        self._taken.set(I64(0))
        self.meet()

    def _x(self, t: Number, sample: Number) -> Number:
        return self.given["x"] + t * self.given["x_step"] + sample * self.given["x_row"]

    def _multiply_waiting(self) -> None:
        code, given, vectors = self.code, self.given, self._input_blocking.units
        vector = self.kind.lanes * self.kind.size
        done, waiting = Number(code, self._taken.get()), Number(code, self._waiting.get())
        N, width = given["H"] * len(self.program.cell.gates), vectors * vector
        panels = (N + (vectors * self.kind.lanes - 1)) // (vectors * self.kind.lanes)
        to = self._ahead() + done * given["ahead_row"]
        with self.my_panels(panels) as j, self.parts(self._input_blocking.rows, waiting) as (first, count):
            panel = given["input_pack"] + j * ((given["I"] + 1) * width)
            sums = to + first * given["ahead_row"] + j * width
            values = count, self._inputs + first * 8, panel + width, panel, sums, given["ahead_row"], given["I"]
            code.builder.call(products(code.module, self.kind, *self._input_blocking), [value.value for value in values])
        self._taken.set((done + waiting).value)
        self._waiting.set(I64(0))

    def _ahead(self) -> Number:
        return self.given["ahead"] + self.number * self.given["ahead_tile"]

    def _find_x(self, t: Number) -> None:
        """Where the input product of each of the step's rows lies."""
        code, given = self.code, self.given
        done = Number(code, self._taken.get())
        ahead = self._ahead()
        with code.loop("row", 0, self.count) as k:
            here = code.choose(self._raw, ahead + (done + k) * given["ahead_row"], self._x(t, self.row(k)))
            code.store_number(here, self._x_rows + k * 8)
        self._taken.set((done + self.count).value)

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
        with self.code.loop("row", 0, self.count) as place, self.my_units() as first:
            self.each_vector(first, 1, lambda _, unit, mask: self._run(part, stage, place, unit, mask, None))
        self.meet()

    def _stage(self, stage: int, pack: Number) -> Number:
        """A stage's products, panel by panel, and the part that follows; returns where the next one's panels lie."""
        program, code, units = self.program, self.code, self.blocking.units
        vector, H = self.kind.lanes * self.kind.size, self.given["H"]
        width = len(stage_columns(program, stage)) * units * vector  # bytes of a row's sums
        panel, across = forward_panel(program, stage, units, self.kind, H), units * self.kind.lanes
        panels = (H + (across - 1)) // across
        part = parts.update(program) if stage == program.stages else parts.vectors(program, stage + 1)
        assert part is not None, "a later stage multiplies what this one yields"
        with self.my_panels(panels) as j:
            base = pack + j * panel
            with self.parts(self.blocking.rows) as (first, count):
                rows, place = base + width, 0
                for k in program.stage_products(stage):
                    p = program.products[k]
                    vectors, offset = len(p.gates) * units, place * units * vector
                    pointers = self._vectors[self._fed.index(k)] if p.computed else self.before[p.state]
                    values = count, pointers + first * 8, rows, base + offset, self._sums + offset, code.number(width), H
                    function = products(code.module, self.kind, vectors, self.blocking.rows)
                    code.builder.call(function, [v.value for v in values])
                    rows, place = rows + H * (vectors * vector), place + len(p.gates)
                with code.loop("row", 0, count) as row:
                    sums = self._sums + row * width
                    self.each_vector(
                        j * across,
                        units,
                        lambda u, unit, mask: self._run(part, stage, first + row, unit, mask, sums + u * vector),
                    )
        self.meet()
        return pack + panels * panel

    def _run(self, part: Part, stage: int, place: Number, unit: Number, mask: Any, sums: Number | None) -> None:
        """A part for a vector of units of the row at that place, after that stage's product; its sums, by column, lie
        ``units`` vectors apart."""
        program, v, given = self.program, self.vectors, self.given
        row, at = self.row(place), unit * self.kind.size
        own = stage_columns(program, stage) if sums is not None else ()
        apart = self.blocking.units * self.kind.lanes * self.kind.size

        def slot(name: str) -> Any:
            gate, column = self._gates[name], self._columns[name]
            if column >= 0 and column not in own:
                return v.load(self._sum(column, row) + at, mask)
            x = None
            if gate >= 0:
                x = v.load(self.code.load_number(self._x_rows + place * 8) + self.row_bytes * gate + at, mask)
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
        if part.name == "update" and self._apart:
            with self.code.when(self.code.builder.and_(given["save"].compare("!=", 0), self._raw)):
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
            else:
                k = program.cell.parameters.index(name)
                known[name] = v.load(given[f"parameter{k}"] + at, mask)
        results = part.call(self.code, [known[name] for name in part.inputs])
        if part.name == "update":
            places = [self.out(s, self._t, row) + at for s in range(len(self._states))]
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

"""Products over all rows of a sequence as LLVM: gradients of weights, of biases, and of the input.

    weights[n][k] = sum over rows of d[row][n] x[row][k]        bias[n] = sum over rows of d[row][n]
    d_x[row][k]   = sum over n of d[row][n] weights[n][k]

Rows are the steps of the samples, time first. What a gradient of recurrent weights multiplies is the state before the
step, which is read where it lies. Each thread has a share of the first one's n, and of the last one's rows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import I8, I64, Code, Number
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.loops.team import TEAM, define_run, meet
from gatefuse.kernels.codegen.llvm.processor import Processor
from gatefuse.kernels.codegen.llvm.products.ahead import AS_THEY_LIE
from gatefuse.kernels.codegen.llvm.products.packing import Share, share_of
from gatefuse.kernels.codegen.llvm.products.product import Blocking, input_blocking, products
from gatefuse.kernels.codegen.llvm.routines import Module, routine
from gatefuse.kernels.codegen.llvm.vectors import Float, Vectors

CHUNK = 128  # rows at a time, of which x stays in a cache

# Sizes; d with the bytes of a row; x with those of a step and of a row of it; whether x is the sequence of a state, of
# which the row before the step is meant, and then what find it; the gradients or 0; memory for x in panels by thread.
WEIGHTS_FIELDS = Fields((
    *TEAM, "T", "B", "N", "K", "d", "d_row", "x", "x_step", "x_row", "before", "reverse", "first", "restarts", "fresh",
    "weight", "bias", "pack",
))  # fmt: skip
# Sizes; d and the weights, without gaps; memory for these in panels; the gradient, without gaps.
INPUT_FIELDS = Fields((*TEAM, "rows", "N", "K", "d", "weight", "pack", "d_x", "layout"))


def weights_module(kind: Float, processor: Processor) -> Module:
    """A module with run(arguments), for WEIGHTS_FIELDS."""
    module = Module("gradients of weights", processor)
    blocking = input_blocking(processor)

    def work(code: Code, base: Number, given: dict[str, Number], share: Share) -> None:
        _Weights(code, kind, blocking, given, share).run()

    define_run(module, WEIGHTS_FIELDS, work)
    return module


class _Weights:
    def __init__(self, code: Code, kind: Float, blocking: Blocking, given: dict[str, Number], share: Share):
        self._code, self._kind, self._blocking, self._given, self._share = code, kind, blocking, given, share
        self._v, self._vector = Vectors(code, kind), kind.lanes * kind.size
        self._across = blocking.units * kind.lanes
        self._panels = (given["K"] + (self._across - 1)) // self._across
        self._sums = code.room(kind.vector, blocking.units * blocking.rows)

    def run(self) -> None:
        code, given, rows = self._code, self._given, self._blocking.rows
        total = given["T"] * given["B"]
        first, last = share_of(given["N"], *self._share)
        pack = given["pack"] + self._share[0] * self._panels * (CHUNK * self._blocking.units * self._vector)
        with code.loop("chunk", 0, total, CHUNK) as start:
            count = (total - start).least(CHUNK)
            with code.loop("row", 0, count) as r:
                self._pack_row(pack, r, self._x(start + r))
            d = given["d"] + start * given["d_row"]
            with code.loop("n", first, last, rows) as n, code.loop("panel", 0, self._panels) as j:
                panel = pack + j * (CHUNK * self._blocking.units * self._vector)
                here = (last - n).least(rows)
                self._multiply(here, d + n * self._kind.size, panel, count)
                self._add(start, n, here, j)
            with code.when(given["bias"].compare("!=", 0)):
                self._add_bias(start, d, count, first, last)

    def _x(self, row: Number) -> Number:
        """Where that row of x lies."""
        code, given = self._code, self._given
        t, sample = row // given["B"], row.modulo(given["B"])
        found = code.variable(I64, (given["x"] + t * given["x_step"] + sample * given["x_row"]).value)
        with code.when(given["before"].compare("!=", 0)):
            reverse = given["reverse"].compare("!=", 0)
            before = code.choose(reverse, t + 1, t - 1)
            at_first = code.choose(reverse, given["T"] - 1, code.number(0)).compare("==", t)
            bytes = given["K"] * self._kind.size
            later = given["x"] + before * given["x_step"] + sample * given["x_row"]
            found.set(code.choose(at_first, given["first"] + sample * bytes, later).value)
            with code.when(given["restarts"].compare("!=", 0)):
                anew = code.builder.icmp_unsigned("!=", code.load(given["restarts"] + row, I8), I8(0))
                with code.when(anew):
                    found.set((given["fresh"] + sample * bytes).value)
        return Number(code, found.get())

    def _pack_row(self, pack: Number, row: Number, x: Number) -> None:
        v, lanes = self._v, self._kind.lanes
        with self._code.loop("panel", 0, self._panels) as j:
            to = pack + (j * CHUNK + row) * (self._blocking.units * self._vector)
            for u in range(self._blocking.units):
                k = (j * self._blocking.units + u) * lanes
                left = self._given["K"] - k
                with self._code.either(left.compare(">=", lanes)) as (whole, part):
                    with whole:
                        v.store(v.load(x + k * self._kind.size), to + u * self._vector)
                    with part:
                        v.store(v.load(x + k * self._kind.size, v.within(left)), to + u * self._vector)

    def _multiply(self, n: Number, d: Number, panel: Number, count: Number) -> None:
        function = _outers(self._code.module, self._kind, self._blocking)
        values = n, d, self._given["d_row"], panel, self._sums, count
        self._code.run(function, *values)

    def _add(self, start: Number, n: Number, rows: Number, j: Number) -> None:
        """Add the sums to the gradient, which begins with them in the first chunk."""
        code, given, v, size = self._code, self._given, self._v, self._kind.size
        begin = start.compare("==", 0)
        with code.loop("row", 0, rows) as r, code.loop("vector", 0, self._blocking.units) as u:
            k = j * self._across + u * self._kind.lanes
            left, to = given["K"] - k, given["weight"] + ((n + r) * given["K"] + k) * size
            value = v.load(self._sums + (r * self._blocking.units + u) * self._vector)

            def put(mask: Any, to: Number = to, value: Any = value) -> None:
                with code.either(begin) as (first, later):
                    with first:
                        v.store(value, to, mask)
                    with later:
                        v.store(v.add(v.load(to, mask), value), to, mask)

            with code.either(left.compare(">=", self._kind.lanes)) as (whole, part):
                with whole:
                    put(None)
                with part, code.when(left.compare(">", 0)):
                    put(v.within(left))

    def _add_bias(self, start: Number, d: Number, count: Number, first: Number, last: Number) -> None:
        code, given, v, kind = self._code, self._given, self._v, self._kind
        with code.loop("n", first, last, kind.lanes) as n:
            mask = v.within(last - n)
            total = code.variable(kind.vector, v.number(0.0))
            with code.loop("row", 0, count) as r:
                total.set(v.add(total.get(), v.load(d + r * given["d_row"] + n * kind.size, mask)))
            to = given["bias"] + n * kind.size
            with code.when(start.compare("!=", 0)):
                total.set(v.add(total.get(), v.load(to, mask)))
            v.store(total.get(), to, mask)


def _outers(module: Module, kind: Float, blocking: Blocking) -> ir.Function:
    """The routine (n, d, d_row, panel, sums, count): sums over rows of n numbers of d with the panel's vectors."""

    def define(code: Code) -> None:
        each = [_outer(code.module, kind, n, blocking.units) for n in range(1, blocking.rows + 1)]
        code.switch(each, code.function.args[0], code.function.args[1:])

    return routine(module, kind, "outers", ("n", "d", "d_row", "panel", "sums", "count"), define)


def _outer(module: Module, kind: Float, n: int, vectors: int) -> ir.Function:
    names = ("d", "d_row", "panel", "sums", "count")
    code = Code(module, f"outer_{n}x{vectors}", [(name, I64) for name in names], None, "noinline")
    d, d_row, panel, sums, count = map(code.argument, range(5))
    v, vector = Vectors(code, kind), kind.lanes * kind.size
    totals = [[code.variable(kind.vector, v.number(0.0)) for _ in range(vectors)] for _ in range(n)]
    with code.loop("row", 0, count) as r:
        x = [v.load(panel + r * (vectors * vector) + u * vector) for u in range(vectors)]
        for k in range(n):
            value = v.load_spread(d + r * d_row + k * kind.size)
            for total, each in zip(totals[k], x, strict=True):
                total.set(v.mul_add(value, each, total.get()))
    for k in range(n):
        for u in range(vectors):
            v.store(totals[k][u].get(), sums + (k * vectors + u) * vector)
    return code.finish()


def input_module(kind: Float, processor: Processor) -> Module:
    """A module with run(arguments), for INPUT_FIELDS."""
    module = Module("gradient of the input", processor)
    blocking = input_blocking(processor)

    def work(code: Code, base: Number, given: dict[str, Number], share: Share) -> None:
        with code.when(given["layout"].compare("!=", AS_THEY_LIE)):
            _pack_weights(code, kind, blocking, given, share)
        meet(code, INPUT_FIELDS, base, code.number(1), share[1])
        _multiply_rows(code, kind, blocking, given, share)

    define_run(module, INPUT_FIELDS, work)
    return module


def _pack_weights(code: Code, kind: Float, blocking: Blocking, given: dict[str, Number], share: Share) -> None:
    """[panel][n][vectors of k]"""
    v, vector, across = Vectors(code, kind), kind.lanes * kind.size, blocking.units * kind.lanes
    panels = (given["K"] + (across - 1)) // across
    with code.loop("panel", *share_of(panels, *share)) as j, code.loop("n", 0, given["N"]) as n:
        to = given["pack"] + (j * given["N"] + n) * (blocking.units * vector)
        for u in range(blocking.units):
            k = (j * blocking.units + u) * kind.lanes
            mask = v.within(given["K"] - k)
            v.store(v.load(given["weight"] + (n * given["K"] + k) * kind.size, mask), to + u * vector)


def _multiply_rows(code: Code, kind: Float, blocking: Blocking, given: dict[str, Number], share: Share) -> None:
    v, vector, size, units = Vectors(code, kind), kind.lanes * kind.size, kind.size, blocking.units
    across, K = units * kind.lanes, given["K"]
    panels = (K + (across - 1)) // across
    function = products(code.module, kind, *blocking, True)
    lies = given["layout"].compare("==", AS_THEY_LIE)
    step = code.choose(lies, K * size, code.number(units * vector))
    sums, zeros = code.room(kind.vector, units * blocking.rows), code.room(kind.vector, units)
    pointers = code.room(I64, blocking.rows)
    for each in range(units):
        v.store(v.number(0.0), zeros + each * vector)
    first, last = share_of(given["rows"], *share)
    with code.loop("chunk", first, last, CHUNK) as start, code.loop("panel", 0, panels) as j:
        end = (start + CHUNK).least(last)
        with code.loop("row", start, end, blocking.rows) as row:
            count = (end - row).least(blocking.rows)
            with code.loop("r", 0, count) as r:
                code.store_number(given["d"] + (row + r) * given["N"] * size, pointers + r * 8)
            laid_out = given["pack"] + j * given["N"] * (units * vector)
            panel = code.choose(lies, given["weight"] + j * (across * size), laid_out)
            values = count, pointers, panel, zeros, sums, code.number(units * vector), given["N"], step
            code.run(function, *values)
            with code.loop("r", 0, count) as r, code.loop("vector", 0, units) as u:
                k = j * across + u * kind.lanes
                left, to = K - k, given["d_x"] + ((row + r) * K + k) * size
                value = v.load(sums + (r * units + u) * vector)
                with code.either(left.compare(">=", kind.lanes)) as (whole, part):
                    with whole:
                        v.store(value, to)
                    with part, code.when(left.compare(">", 0)):
                        v.store(value, to, v.within(left))

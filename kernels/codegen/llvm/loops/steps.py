"""What the loops forward and backward share: tiles of the batch that threads take, a step's rows, and units of a row.

Threads take tiles until none is left; a tile's samples run their whole sequences, so that no step waits for another
thread. Or, where samples are few and units many, the threads of a team divide the units of all samples, and meet after
each stage. A step's rows are the samples of a tile that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import I8, I64, Code, Number
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.loops.team import define_run, meet
from gatefuse.kernels.codegen.llvm.products.packing import Share, share_of
from gatefuse.kernels.codegen.llvm.products.product import Blocking
from gatefuse.kernels.codegen.llvm.reductions import reduced, unit_share
from gatefuse.kernels.codegen.llvm.vectors import Float, Vectors

MOST_ROWS = 96  # of a tile


def define_tiles(module: ir.Module, fields: Fields, prepare: Callable[[Code, dict[str, Number], Share], None]) -> None:
    """Add run(arguments), of which each thread prepares its share. Then they take tiles until none is left, or where
    ``together`` is set, run all samples with the units divided among them.

    A tile's function is tile(arguments, number, first, last, share, shares).
    """

    def work(code: Code, base: Number, given: dict[str, Number], share: Share) -> None:
        prepare(code, given, share)
        meet(code, fields, base, code.number(1), share[1])
        tile = module.globals["tile"]
        with code.either(given["together"].compare("!=", 0)) as (together, apart):
            with together:
                values = base, code.number(0), code.number(0), given["B"], *share
                code.run(tile, *values)
            with apart:
                _take_tiles(code, fields, base, given, tile)

    define_run(module, fields, work)


def _take_tiles(code: Code, fields: Fields, base: Number, given: dict[str, Number], tile: ir.Function) -> None:
    taken = fields.place(base, "next").pointer
    head, run, end = (code.function.append_basic_block(name) for name in ("take", "tile", "taken"))
    b = code.builder
    b.branch(head)
    b.position_at_end(head)
    k = Number(code, b.atomic_rmw("add", taken, I64(1), "monotonic"))
    b.cbranch(k.compare("<", given["tiles"]), run, end)
    b.position_at_end(run)
    # tiles differ by one row at most
    first, last = ((given["B"] * (k + plus)) // given["tiles"] for plus in (0, 1))
    code.run(tile, base, k, first, last, code.number(0), code.number(1))
    b.branch(head)
    b.position_at_end(end)


class Tile:
    """The function tile(arguments, number, first, last, share, shares) under construction: the steps of a tile's
    samples, of a share of the units.

    Attributes:
        rows: where numbers of the samples lie that have the step, ``count`` of them.
        before: of each state, where the pointers to these samples' states before the step lie.
        of_units: one part of as many as there are units, in all lanes.
    """

    def __init__(self, module: ir.Module, fields: Fields, kind: Float, blocking: Blocking, states: int):
        names = ("arguments", "number", "first", "last", "share", "shares")
        self.code = Code(module, "tile", [(name, I64) for name in names], None, "noinline")
        self.kind, self.blocking, self.vectors = kind, blocking, Vectors(self.code, kind)
        self._base, self.number, self.first, self.last, self.share, self.shares = map(self.code.argument, range(6))
        self._fields, self.given = fields, fields.load(self.code, self._base)
        self._met = self.code.variable(I64, I64(1))
        self.row_bytes = self.given["H"] * kind.size
        self.state_bytes = self.given["B"] * self.row_bytes
        self.rows = self.code.room(I64, MOST_ROWS)
        self.before = [self.code.room(I64, MOST_ROWS) for _ in range(states)]
        self.count = self.code.number(0)
        self.of_units = unit_share(self.vectors, self.given["H"])
        self._count = self.code.variable(I64, I64(0))

    def time(self, i: Number) -> tuple[Number, Number]:
        """The step that runs as number i, and the one before it in that order."""
        code, reverse = self.code, self.given["reverse"].compare("!=", 0)
        t = code.choose(reverse, self.given["T"] - i - 1, i)
        return t, code.choose(reverse, t + 1, t - 1)

    def out(self, s: int, t: Number, sample: Number) -> Number:
        """Where state s of a sample lies after step t."""
        row = self.given["out_row"] if s == 0 else self.row_bytes
        return self.given[f"out{s}"] + t * self.given[f"step{s}"] + sample * row

    def begin(self, s: int, sample: Number) -> Number:
        """Where state s of a sample lies before its first step."""
        return self.given[f"first{s}"] + sample * self.row_bytes

    def find_rows(self, t: Number, states: Callable[[Number], list[Number]], over: Callable[[Number], None]) -> None:
        """Find the step's rows and their states before it, which lie where ``states`` says of a sample; ``over`` is
        called where a sample doesn't have the step."""
        code, given = self.code, self.given
        self._count.set(I64(0))
        some_end, some_restart = given["live"].compare("!=", 0), given["restarts"].compare("!=", 0)
        with code.loop("sample", self.first, self.last) as sample:

            def add(found: list[Number]) -> None:
                place = Number(code, self._count.get())
                code.store_number(sample, self.rows + place * 8)
                for pointers, state in zip(self.before, found, strict=True):
                    code.store_number(state, pointers + place * 8)
                self._count.set((place + 1).value)

            def run() -> None:
                now = states(sample)
                with code.either(some_restart) as (may, never):
                    with may:
                        anew = self.restarted(t, sample)
                        fresh = [given[f"fresh{s}"] + sample * self.row_bytes for s in range(len(now))]
                        add([code.choose(anew, f, state) for f, state in zip(fresh, now, strict=True)])
                    with never:
                        add(now)

            with code.either(some_end) as (may, never):
                with may, code.either(self.live(t, sample)) as (then, other):
                    with then:
                        run()
                    with other:
                        over(sample)
                with never:
                    run()
        self.count = Number(code, self._count.get())

    def truth(self, at: Number) -> Any:
        """A bool of a mask, i1."""
        return self.code.builder.icmp_unsigned("!=", self.code.load(at, I8), I8(0))

    def restarted(self, t: Number, sample: Number) -> Any:
        return self.truth(self.given["restarts"] + t * self.given["B"] + sample)

    def row(self, place: Number) -> Number:
        """The number of the sample that stands there."""
        return self.code.load_number(self.rows + place * 8)

    @contextmanager
    def parts(self, most: int, count: Number | None = None) -> Iterator[tuple[Number, Number]]:
        """The step's rows, or so many, in parts that a product can take, of nearly the same size: the place of the
        first, and how many."""
        code, count = self.code, self.count if count is None else count
        parts = (count + (most - 1)) // most
        with code.loop("part", 0, parts) as k:
            # of 0 parts none is reached
            first, last = ((count * (k + plus)) // parts for plus in (0, 1))
            yield first, last - first

    def live(self, t: Number, sample: Number) -> Any:
        """Whether a sample has that step; there must be a mask."""
        return self.truth(self.given["live"] + t * self.given["B"] + sample)

    def walk(self, first: Number, last: Number, run: Callable[[Number, Number], None]) -> None:
        """Call with the step and the sample of all steps that the tile's samples have, of those that run as numbers
        first to last, in the order in which find_rows finds them."""
        code, given = self.code, self.given
        some_end = given["live"].compare("!=", 0)
        with code.loop("step", first, last) as i:
            t, _ = self.time(i)
            with code.loop("sample", self.first, self.last) as sample, code.either(some_end) as (may, never):
                with may, code.when(self.live(t, sample)):
                    run(t, sample)
                with never:
                    run(t, sample)

    def meet(self) -> None:
        """Wait for the team's other threads."""
        self._met.set((Number(self.code, self._met.get()) + 1).value)
        meet(self.code, self._fields, self._base, Number(self.code, self._met.get()), self.shares)

    def kept(self, number: int, row: Number) -> Number:
        """Where a value that later parts read is kept, of a row, unit 0."""
        return self.given["kept"] + self.state_bytes * number + row * self.row_bytes

    def reduced(self, kind: str, at: Number) -> Any:
        """The mean or the largest of a row's units, in all lanes, found in the same order for every row and share."""
        return reduced(self.vectors, kind, at, self.given["H"], self.of_units)

    @contextmanager
    def my_panels(self, count: Number) -> Iterator[Number]:
        """This thread's of so many panels."""
        first, last = share_of(count, self.share, self.shares)
        with self.code.loop("panel", first, last) as j:
            yield j

    @contextmanager
    def my_units(self) -> Iterator[Number]:
        """The first units of this thread's vectors, of a row."""
        lanes = self.kind.lanes
        first, last = share_of((self.given["H"] + (lanes - 1)) // lanes, self.share, self.shares)
        with self.code.loop("unit", first, last) as k:
            yield k * lanes

    def each_vector(self, first: Number, count: int, run: Callable[[Number, Number, Any], None]) -> None:
        """Call with the vectors of units from ``first`` on: which of them it is, its first unit, and a mask, None where
        all of its lanes are units."""
        code, H, lanes = self.code, self.given["H"], self.kind.lanes
        with code.loop("vector", 0, count) as u:
            unit = first + u * lanes
            left = H - unit
            with code.either(left.compare(">=", lanes)) as (whole, other):
                with whole:
                    run(u, unit, None)
                with other, code.when(left.compare(">", 0)):
                    run(u, unit, self.vectors.within(left))

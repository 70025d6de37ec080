"""The input's product of a few steps ahead of them, of the rows that these steps will have, while it stays in a
cache.
"""

from __future__ import annotations

from gatefuse.kernels.codegen.llvm.code import I64, Number
from gatefuse.kernels.codegen.llvm.loops.steps import MOST_ROWS, Tile
from gatefuse.kernels.codegen.llvm.products.dots import dots
from gatefuse.kernels.codegen.llvm.products.product import Blocking, products

# How weights are laid out: in panels, by this call or by one before it, or not at all.
LAID_OUT_NOW, LAID_OUT, AS_THEY_LIE = 0, 1, 2

_WAITING = 128  # rows of which the pointers are held at a time


class Ahead:
    """Within a tile's function.

    Attributes:
        needed: whether x is the input itself; else it is the product already.
    """

    def __init__(self, tile: Tile, blocking: Blocking, gates: int):
        self._tile, self._blocking, code = tile, blocking, tile.code
        self.needed = tile.given["input_weight"].compare("!=", 0)
        self._N = tile.given["H"] * gates
        self._inputs, self._rows = code.room(I64, _WAITING), code.room(I64, MOST_ROWS)
        # rows of the product that the steps have read, or in its making rows that are done
        self._taken, self._waiting = (code.variable(I64, I64(0)) for _ in range(2))

    def row(self, place: Number) -> Number:
        """Where the product of the step's row at that place lies."""
        return self._tile.code.load_number(self._rows + place * 8)

    def run(self, i: Number) -> None:
        """Before the step that runs as number i: the product of all rows of the next steps, once in so many steps."""
        code, given = self._tile.code, self._tile.given
        begins = i.modulo(given["input_steps"]).compare("==", 0)
        with code.when(code.builder.and_(self.needed, begins)):
            self._taken.set(I64(0))
            self._waiting.set(I64(0))
            self._tile.walk(i, (i + given["input_steps"]).least(given["T"]), self._take)
            self._multiply()
            self._taken.set(I64(0))
            self._tile.meet()

    def find(self, t: Number) -> None:
        """Where the product of each of the step's rows lies."""
        tile, code, given = self._tile, self._tile.code, self._tile.given
        done = Number(code, self._taken.get())
        with code.loop("row", 0, tile.count) as k:
            ahead = self._place + (done + k) * given["ahead_row"]
            code.store_number(code.choose(self.needed, ahead, self._x(t, tile.row(k))), self._rows + k * 8)
        self._taken.set((done + tile.count).value)

    @property
    def _place(self) -> Number:
        return self._tile.given["ahead"] + self._tile.number * self._tile.given["ahead_tile"]

    def _x(self, t: Number, sample: Number) -> Number:
        given = self._tile.given
        return given["x"] + t * given["x_step"] + sample * given["x_row"]

    def _take(self, t: Number, sample: Number) -> None:
        code = self._tile.code
        waiting = Number(code, self._waiting.get())
        code.store_number(self._x(t, sample), self._inputs + waiting * 8)
        self._waiting.set((waiting + 1).value)
        with code.when((waiting + 1).compare("==", _WAITING)):
            self._multiply()

    def _multiply(self) -> None:
        """The product of the rows that wait for it."""
        code, given = self._tile.code, self._tile.given
        done, waiting = Number(code, self._taken.get()), Number(code, self._waiting.get())
        to = self._place + done * given["ahead_row"]
        with code.either(given["layout"].compare("!=", AS_THEY_LIE)) as (panels, rows):
            with panels:
                self._multiply_panels(to, waiting)
            with rows:
                self._multiply_rows(to, waiting)
        self._taken.set((done + waiting).value)
        self._waiting.set(I64(0))

    def _multiply_panels(self, to: Number, waiting: Number) -> None:
        tile, given, kind, vectors = self._tile, self._tile.given, self._tile.kind, self._blocking.units
        width, across = vectors * kind.lanes * kind.size, vectors * kind.lanes
        function = products(tile.code.module, kind, *self._blocking)
        panels = (self._N + (across - 1)) // across
        with tile.my_panels(panels) as j, tile.parts(self._blocking.rows, waiting) as (first, count):
            panel = given["input_pack"] + j * ((given["I"] + 1) * width)
            sums = to + first * given["ahead_row"] + j * width
            values = count, self._inputs + first * 8, panel + width, panel, sums, given["ahead_row"], given["I"]
            tile.code.run(function, *values)

    def _multiply_rows(self, to: Number, waiting: Number) -> None:
        tile, code, given, kind = self._tile, self._tile.code, self._tile.given, self._tile.kind
        with tile.my_panels((self._N + (kind.lanes - 1)) // kind.lanes) as j:
            first, bias = j * kind.lanes, given["input_bias"]
            weight = given["input_weight"] + first * given["I"] * kind.size
            bias = code.choose(bias.compare("==", 0), bias, bias + first * kind.size)
            sums, left = to + first * kind.size, self._N - first
            values = waiting, self._inputs, weight, left, bias, sums, given["ahead_row"], given["I"]
            code.run(dots(code.module, kind), *values)

"""Rows of the input that are read once, asked for before their turn.

Where no product is between the loads of one row and those of the next, memory is what a loop waits for. A processor
sees by itself that memory is read in order only where it is read in one piece, and here it is not: a row's gates lie
side by side, and its units are read gate by gate.
"""

from __future__ import annotations

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import I32, Number
from gatefuse.kernels.codegen.llvm.loops.steps import Tile

# On an AMD EPYC, in steps of 32 rows of 1 to 4 kB, 4 to 16 kB took half of the time that it took without, less or more
# not as little.
_BYTES = 8192


class Prefetch:
    """Within a step, for a sequence's rows ``row`` bytes apart, and its steps ``step`` bytes in the order of the run.

    What it asks for is right where every sample has every step; else it is for nothing.
    """

    def __init__(self, tile: Tile, row: Number, step: Number):
        self._tile = tile
        rows = (tile.last - tile.first).most(1)
        ahead = (row.most(1) + (_BYTES - 1)) // row.most(1)
        steps, more = ahead // rows, ahead.modulo(rows)
        self._border = rows - more
        self._near = steps * step + more * row
        self._far = self._near + step - rows * row

    def ahead(self, place: Number) -> Number:
        """How many bytes behind the row at that place the one lies that is asked for with it."""
        return self._tile.code.choose(place.compare("<", self._border), self._near, self._far)

    def ask(self, at: Number, place: Number) -> None:
        """Ask for what will be read as ``at`` is of the row at that place."""
        there = at + self.ahead(place)
        self._tile.code.call("llvm.prefetch.p0", ir.VoidType(), there.pointer, I32(0), I32(3), I32(1))

"""A stage's products with R, of a panel of units: by weights that were laid out, or by weights as they lie."""

from __future__ import annotations

from collections.abc import Callable

from gatefuse.kernels.codegen.llvm.code import Number
from gatefuse.kernels.codegen.llvm.loops.steps import Tile
from gatefuse.kernels.codegen.llvm.products.dots import dots
from gatefuse.kernels.codegen.llvm.products.packing import stage_columns
from gatefuse.kernels.codegen.llvm.products.product import products
from gatefuse.kernels.equations.program import Program


class StageProducts:
    """Within a tile's function.

    Args:
        sums: where the products go, by row and column.
        vector: says where the pointers to the vectors of a product, by its number, lie from a row on.
    """

    def __init__(self, tile: Tile, program: Program, sums: Number, vector: Callable[[int, Number], Number]):
        self._tile, self._program, self._sums, self._vector = tile, program, sums, vector

    def of_panel(self, stage: int, panel: Number, first: Number, count: Number) -> None:
        """By a panel of weights, from that row on so many rows."""
        tile = self._tile
        units, H, vector = tile.blocking.units, tile.given["H"], tile.kind.lanes * tile.kind.size
        width = len(stage_columns(self._program, stage)) * units * vector
        rows, offset = panel + width, 0
        for k in self._program.multiplied(stage):
            vectors = len(self._program.products[k].gates) * units
            function = products(tile.code.module, tile.kind, vectors, tile.blocking.rows)
            stride = tile.code.number(width)
            tile.code.run(function, count, self._vector(k, first), rows, panel + offset, self._sums + offset, stride, H)
            rows, offset = rows + H * (vectors * vector), offset + vectors * vector

    def of_rows(self, stage: int, panel: Number, first: Number, count: Number) -> None:
        """As of_panel, by weights as they lie."""
        tile = self._tile
        code, given, size, lanes = tile.code, tile.given, tile.kind.size, tile.kind.lanes
        units, H, vector, place = tile.blocking.units, tile.given["H"], lanes * size, 0
        width = code.number(len(stage_columns(self._program, stage)) * units * vector)
        for k in self._program.multiplied(stage):
            for gate in self._program.products[k].gates:
                with code.loop("vector", 0, units) as u:
                    unit = (panel * units + u) * lanes
                    row, sums = H * gate + unit, self._sums + (u + place * units) * vector
                    bias = code.choose(given["bias"].compare("==", 0), given["bias"], given["bias"] + row * size)
                    with code.when(unit.compare("<", H)):
                        values = (
                            self._vector(k, first),
                            given["weight"] + row * H * size,
                            H - unit,
                            bias,
                            sums,
                            width,
                            H,
                        )
                        code.run(dots(code.module, tile.kind), count, *values)
                place += 1

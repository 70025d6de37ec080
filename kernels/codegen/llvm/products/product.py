"""The product of a few rows with a panel of weights, whose sums stay in registers.

A panel holds, for each k, as many vectors as a row has sums: sums[row][v] = first[v] + sum over k of a[row][k]
panel[k][v]. The sums of a row are added in the order of k, whatever rows stand beside it: what a sample gets depends on
no other.
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import I64, Code
from gatefuse.kernels.codegen.llvm.processor import Processor
from gatefuse.kernels.codegen.llvm.routines import Module, routine
from gatefuse.kernels.codegen.llvm.vectors import Float, Vectors

_GAPS = "_apart"


class Blocking(NamedTuple):
    """units: vectors of units in a panel; rows: at most, in a product."""

    units: int
    rows: int


def blocking(columns: int, rows: int, H: int, lanes: int, processor: Processor) -> Blocking:
    """What fits into the registers, for a stage of so many columns and so many rows at once; columns may be none."""
    columns, vectors = max(1, columns), -(-H // lanes)
    room = processor.registers * 3 // 4
    units = 1
    # few rows leave room for more units, whose sums don't wait for one another
    while 2 * units * columns * min(rows, 6) <= room and 2 * units <= max(1, vectors) and units < 8:
        units *= 2
    while units > 1 and -(-vectors // units) * units > 1.15 * vectors:  # work at units that aren't there
        units //= 2
    return Blocking(units, max(1, min(8, room // (units * columns))))


def input_blocking(processor: Processor) -> Blocking:
    """Of a product that is nothing else, of any number of outputs."""
    return Blocking(processor.registers // 8, 6)


def products(module: Module, kind: Float, vectors: int, rows: int, gaps: bool = False) -> ir.Function:
    """The routine (n, a, panel, first, sums, stride, K), for up to so many rows.

    n: rows; a: where their pointers to a lie; sums: where the first row's go, the next ones' stride bytes on.

    Args:
        gaps: a panel's vectors for a k lie further apart from the next ones than they take: so many bytes, ``step``,
            which is one more argument.
    """

    def define(code: Code) -> None:
        each = [_product(code.module, kind, vectors, n, gaps) for n in range(1, rows + 1)]
        code.switch(each, code.function.args[0], code.function.args[1:])

    names = ("n", "a", "panel", "first", "sums", "stride", "K", *["step"] * gaps)
    return routine(module, kind, f"products_{rows}x{vectors}{_GAPS * gaps}", names, define)


def _product(module: Module, kind: Float, vectors: int, rows: int, gaps: bool) -> ir.Function:
    name = f"product_{rows}x{vectors}{_GAPS * gaps}"
    if name in module.globals:
        return module.globals[name]
    names = ("a", "panel", "first", "sums", "stride", "K", *["step"] * gaps)
    code = Code(module, name, [(n, I64) for n in names], None, "noinline")
    a, panel, first, sums, stride, K = (code.argument(k) for k in range(6))
    v, size = Vectors(code, kind), kind.size * kind.lanes
    step = code.argument(6) if gaps else code.number(size * vectors)
    pointers = [code.load_number(a + 8 * r) for r in range(rows)]
    begin = [code.load(first + size * k, kind.vector, kind.size) for k in range(vectors)]
    totals = [[code.variable(kind.vector, begin[k]) for k in range(vectors)] for _ in range(rows)]
    with code.loop("k", 0, K) as k:
        weights = [code.load(panel + k * step + size * i, kind.vector, kind.size) for i in range(vectors)]
        for r in range(rows):
            value = v.load_spread(pointers[r] + k * kind.size)
            for total, weight in zip(totals[r], weights, strict=True):
                total.set(v.mul_add(value, weight, total.get()))
    for r in range(rows):
        for i in range(vectors):
            code.store(totals[r][i].get(), sums + stride * r + size * i, kind.size)
    return code.finish()

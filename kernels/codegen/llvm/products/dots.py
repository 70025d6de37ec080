"""The product of a few rows with weights as they lie, for calls that are over before laying them out would pay.

A vector of units is as many rows of the weights, each multiplied with a sample's numbers lane by lane; the lanes' sums
are turned over and added in the end.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import Code, Number
from gatefuse.kernels.codegen.llvm.products.packing import transposed
from gatefuse.kernels.codegen.llvm.routines import Module, routine
from gatefuse.kernels.codegen.llvm.vectors import Float, Vectors

_NAMES = ("n", "a", "weight", "units", "bias", "sums", "stride", "K")


def dots(module: Module, kind: Float) -> ir.Function:
    """The routine (n, a, weight, units, bias, sums, stride, K): a vector of sums for each of n rows.

    a: where the rows' pointers lie; weight: the first of the units' rows, of which there are ``units``; bias: theirs,
    or 0; sums: where the first row's go, the next ones' stride bytes on. Lanes beyond the units hold anything."""
    return routine(module, kind, "dots", _NAMES, lambda code: _define(code, kind))


def _define(code: Code, kind: Float) -> None:
    n, a, weight, units, bias, sums, stride, K = map(code.argument, range(len(_NAMES)))
    v, lanes, size = Vectors(code, kind), kind.lanes, kind.size
    begin = code.variable(kind.vector, v.number(0.0))
    with code.when(bias.compare("!=", 0)):
        begin.set(v.load(bias, v.within(units)))
    # a unit that isn't there has the last one's weights
    rows = [weight + code.number(k).least(units - 1) * K * size for k in range(lanes)]
    with code.loop("row", 0, n) as r:
        x = code.load_number(a + r * 8)
        totals = [code.variable(kind.vector, v.number(0.0)) for _ in range(lanes)]

        def add(k: Number, mask: Any, x: Number = x, totals: Any = totals) -> None:
            values = v.load(x + k * size, mask)
            for total, row in zip(totals, rows, strict=True):
                total.set(v.mul_add(v.load(row + k * size, mask), values, total.get()))

        whole = (K // lanes) * lanes
        with code.loop("k", 0, whole, lanes) as k:
            add(k, None)
        with code.when(whole.compare("<", K)):
            add(whole, v.within(K - whole))
        turned = transposed(code, kind, [total.get() for total in totals])
        while len(turned) > 1:
            turned = [v.add(first, second) for first, second in zip(turned[::2], turned[1::2], strict=True)]
        v.store(v.add(turned[0], begin.get()), sums + r * stride)

"""The mean of a row's units, summed a vector after the other, always in the same order."""

from __future__ import annotations

from typing import Any

from gatefuse.kernels.codegen.llvm.code import Number
from gatefuse.kernels.codegen.llvm.vectors import Vectors


def mean(v: Vectors, at: Number, units: Number, share: Any) -> Any:
    """The mean of so many numbers from there on, in all lanes; ``share`` is one part of so many."""
    code, kind = v.code, v.kind
    found = code.variable(kind.vector, v.number(0.0))
    whole = units // kind.lanes
    with code.loop("vector", 0, whole) as k:
        found.set(v.add(found.get(), v.load(at + k * (kind.lanes * kind.size))))
    left = units - whole * kind.lanes
    with code.when(left.compare(">", 0)):
        found.set(v.add(found.get(), v.load(at + whole * (kind.lanes * kind.size), v.within(left))))
    # not to be contracted with what follows, which one loop's code may see and another's not
    return code.builder.fmul(v.total(found.get()), share)


def unit_share(v: Vectors, units: Number) -> Any:
    """One part of so many, in all lanes."""
    number = v.code.builder.sitofp(units.value, v.kind.scalar)
    return v.div(v.number(1.0), v.spread(number))

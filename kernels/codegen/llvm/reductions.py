"""The mean of a row's units, summed a vector after the other, always in the same order, and the largest of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gatefuse.kernels.codegen.llvm.code import Number
from gatefuse.kernels.codegen.llvm.vectors import Vectors


def reduced(v: Vectors, kind: str, at: Number, units: Number, share: Any) -> Any:
    """The "mean" of so many numbers from there on, or the largest, "amax", in all lanes; ``share`` is one part of so
    many."""
    if kind == "amax":
        return v.largest(_over(v, at, units, v.number(-math.inf), v.larger))
    total = v.total(_over(v, at, units, v.number(0.0), v.add))
    # not to be contracted with what follows, which one loop's code may see and another's not
    return v.code.builder.fmul(total, share)


def count(v: Vectors, at: Number, units: Number, value: Any) -> Any:
    """How many of so many numbers from there on are that value, in all lanes."""

    def more(found: Any, numbers: Any) -> Any:
        return v.add(found, v.select(v.compare("==", numbers, value), v.number(1.0), v.number(0.0)))

    return v.total(_over(v, at, units, v.number(0.0), more, math.nan))


def _over(
    v: Vectors, at: Number, units: Number, first: Any, more: Callable[[Any, Any], Any], absent: float | None = None
) -> Any:
    """``first`` with all vectors of so many numbers added to it by ``more``; of numbers that aren't there in the last
    one, each is ``absent``, or what ``first`` is."""
    code, kind = v.code, v.kind
    found = code.variable(kind.vector, first)
    whole = units // kind.lanes
    with code.loop("vector", 0, whole) as k:
        found.set(more(found.get(), v.load(at + k * (kind.lanes * kind.size))))
    left = units - whole * kind.lanes
    with code.when(left.compare(">", 0)):
        there = v.within(left)
        numbers = v.load(at + whole * (kind.lanes * kind.size), there)
        other = first if absent is None else v.number(absent)
        found.set(more(found.get(), v.select(there, numbers, other)))
    return found.get()


def unit_share(v: Vectors, units: Number) -> Any:
    """One part of so many, in all lanes."""
    number = v.code.builder.sitofp(units.value, v.kind.scalar)
    return v.div(v.number(1.0), v.spread(number))

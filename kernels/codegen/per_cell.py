"""What is made of a cell, such as its code: once for its equations as they are, and for as long as the cell lives."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from gatefuse.kernels.cell import Cell, Version

_T = TypeVar("_T")


def per_cell(function: Callable[..., _T]) -> Callable[..., _T]:
    """A decorator for a function of a cell and of what else can be hashed: a cache that the cell itself holds."""

    @wraps(function)
    def cached(cell: Cell, *arguments: Any) -> _T:
        version = cell if type(cell) is Version else cell.current()
        made, key = version.made, (function, arguments)
        if key not in made:
            made[key] = function(version, *arguments)
        return made[key]

    return cached


def per_call(function: Callable[..., _T], most: int = 256) -> Callable[..., _T]:
    """As per_cell, for what also depends on a call's sizes: of so many, after which it begins anew. The cell is a
    version, whose equations are what they are."""

    @wraps(function)
    def cached(version: Cell, *arguments: Any) -> _T:
        made = version.made.get(function)
        if made is None:
            made = version.made.setdefault(function, {})
        found = made.get(arguments)
        if found is None:
            if len(made) >= most:
                made.clear()
            found = made[arguments] = function(version, *arguments)
        return found

    return cached

"""A cache of what is made of a cell, such as its code: for its equations as they are, as long as the cell lives."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from gatefuse.kernels.cell import Cell

_T = TypeVar("_T")


def per_cell(function: Callable[..., _T]) -> Callable[..., _T]:
    """A decorator for a function of a cell and of what else can be hashed: a cache that the cell itself holds."""

    @wraps(function)
    def cached(cell: Cell, *arguments: Any) -> _T:
        version = cell.current()
        made, key = version.made, (function, arguments)
        if key not in made:
            made[key] = function(version, *arguments)
        return made[key]

    return cached

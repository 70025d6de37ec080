"""Cells as pickles hold them: by reference, as functions, and by value where something pickles functions so.

By the name that its equations take in a pickle, the function is found where the cell is, which has taken its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gatefuse.kernels import registry
from gatefuse.kernels.equations.declaration import Declaration, declare
from gatefuse.kernels.equations.signature import read_signature

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell

_SUFFIX = ".equations"


def own_name(equations: Callable[..., Any]) -> str:
    """The name that a function had before a cell of it was pickled."""
    return equations.__qualname__.removesuffix(_SUFFIX)


def reduced(cell: Cell, first: Cell, protocol: int, unpickled: Callable[..., Cell]) -> str | tuple[Any, ...]:
    """What ``__reduce_ex__`` returns of a cell, which differs from the first in its constants alone."""
    equations, name = cell.equations, cell.__qualname__
    if protocol < 4:  # dotted names are not for these
        if first is cell or registry.found_in_module(equations, name) is cell:
            return name
        return with_constants, (first, cell.constants)
    equations.__qualname__ = name + _SUFFIX
    vars(equations)["declaration"] = cell.declaration  # where the function goes by value, so does this
    given = equations, cell.declared, cell.init
    return unpickled, (*given, cell.constants) if cell.constants else given


def with_constants(cell: Cell, constants: Mapping[str, float]) -> Cell:
    """The cell with these constants."""
    return cell.with_(**constants)


def carried(equations: Callable[..., Any], gates: tuple[str, ...], init: Sequence[float]) -> Declaration:
    """The declaration that came along with a function's value, which gets back the name that it had."""
    equations.__qualname__ = own_name(equations)
    found = vars(equations).get("declaration")
    if found is not None and (found.declared, found.init) == (gates, init):
        return found
    return declare(equations, gates, dict(zip(read_signature(equations)[0], init, strict=True)))

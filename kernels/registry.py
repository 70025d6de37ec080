"""The cells of this process, found by serial, by key, or by the function that holds their equations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell, Version

_by_serial: WeakValueDictionary[str, Cell] = WeakValueDictionary()
_by_label: dict[str, WeakSet[Cell]] = {}
_by_key: WeakValueDictionary[str, Version] = WeakValueDictionary()


def enter(cell: Cell) -> None:
    """Have a cell found from now on, as long as it lives."""
    _by_serial[cell.serial] = cell
    _by_label.setdefault(cell.label, WeakSet()).add(cell)


def enter_version(version: Version) -> None:
    """Have a cell's equations as they are at one time found by their key."""
    _by_key[version.key] = version


def by_serial(serial: str) -> Cell:
    """The cell that has that name in this process."""
    return _by_serial[serial]


def by_key(key: str) -> Version:
    """The equations that an operator's ``cell`` argument names.

    Raises:
        ValueError: no cell in this process has these equations.
    """
    found = _by_key.get(key)
    return _search(key) if found is None else found


def named(name: str) -> Cell:
    """The cell that has that serial in this process, or that key, by which files know it.

    Raises:
        ValueError, RuntimeError: as by_key and unchanged, for a key.
    """
    return by_key(name).unchanged().origin if ":" in name else _by_serial[name]


def found_in_module(equations: Callable[..., Any], qualname: str) -> Any:
    """What the equations' module has under that name; None where there is nothing."""
    found: Any = sys.modules.get(equations.__module__)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _search(key: str) -> Version:
    """The version of that key, whose cell may not have been used yet."""
    label, _, _ = key.rpartition(":")
    if label.startswith("gatefuse.") and label not in _by_label:
        import_module(label.rpartition(".")[0])
    cells = list(_by_label.get(label, ()))
    for found in cells:
        if found.key == key:
            return found.current()
    if not cells:
        raise ValueError(f"cell must be the key of a cell defined in this process. Got {key!r}.")
    raise ValueError(
        f"a program must run the equations that it was made of. Got {key!r}, where {label} has other equations now: "
        f"{cells[0].key!r}."
    )

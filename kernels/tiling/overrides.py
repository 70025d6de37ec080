"""One change to how a loop's kernels are cut or compiled, for as long as it is tried; see docs/tuning.md.

Drivers ask here for what is being tried, which is nothing but within ``trying``. It is a plain global and no context
variable, since autograd runs a backward in a thread of its own, which has another context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# What may be changed of how a loop's pass is cut; see tiles.py and tiling/segments.py.
TILES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("block", "forward"): ("BB", "warps"),
    ("block", "backward"): ("BB", "warps"),
    ("grid", "forward"): ("BU", "KC", "BB", "warps"),
    ("grid", "backward"): ("BU", "BN", "SLICES", "KC", "BB", "warps"),
    ("step", "forward"): ("LENGTHS", "LARGEST"),
    ("step", "backward"): ("LENGTHS", "LARGEST"),
}
# What may be changed of how its kernel is compiled: constants of the kernel, explained there, and Triton's options.
OPTIONS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("block", "forward"): ("ROWS", "num_stages", "maxnreg"),
    ("block", "backward"): ("AHEAD", "RELAID", "num_stages", "maxnreg"),
    ("grid", "forward"): ("FORM", "LOADS", "ROWS", "LEFT", "maxnreg"),
    ("grid", "backward"): ("FORM", "LOADS", "SUMS", "maxnreg"),
    ("step", "forward"): (),
    ("step", "backward"): (),
}

_tried: dict[tuple[str, str], Mapping[str, Any]] = {}


@contextmanager
def trying(loop: str, way: str, changes: Mapping[str, Any]) -> Iterator[None]:
    """A context in which a loop's ``forward`` or ``backward`` runs with the changes, by name; in all threads.

    Raises:
        ValueError: there is no such pass, or nothing in it has that name.
        RuntimeError: something is tried already.
    """
    if (loop, way) not in TILES:
        known = ", ".join(" ".join(each) for each in TILES)
        raise ValueError(f"what is tried must be of one of {known}. Got {loop} {way}.")
    names = TILES[loop, way] + OPTIONS[loop, way]
    if unknown := sorted(set(changes) - set(names)):
        raise ValueError(f"a change of {loop} {way} must be one of {', '.join(names)}. Got {unknown[0]}.")
    if _tried:
        raise RuntimeError(f"one thing may be tried at a time. Got a second within {' '.join(next(iter(_tried)))}.")
    _tried[loop, way] = dict(changes)
    try:
        yield
    finally:
        del _tried[loop, way]


def nothing() -> bool:
    """Whether nothing is tried, so that what was found before holds."""
    return not _tried


def tiles(loop: str, way: str) -> dict[str, Any]:
    """What is tried of how a pass is cut."""
    return _of(loop, way, TILES)


def options(loop: str, way: str) -> dict[str, Any]:
    """What is tried of how a pass's kernel is compiled."""
    return _of(loop, way, OPTIONS)


def _of(loop: str, way: str, names: Mapping[tuple[str, str], tuple[str, ...]]) -> dict[str, Any]:
    if not _tried:
        return {}
    found = _tried.get((loop, way), {})
    return {name: value for name, value in found.items() if name in names[loop, way]}

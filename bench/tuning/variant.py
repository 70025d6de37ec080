"""What a variant is: a change of one loop's pass, and a trial of it in one pass at one shape. Imports neither torch nor
gatefuse."""

from __future__ import annotations

from typing import Any, NamedTuple

FORWARD = ("training forward", "inference forward")
BACKWARD = ("backward",)


class Place(NamedTuple):
    """A shape at which something is tried."""

    cell: str
    H: int
    B: int
    dtype: str = "bfloat16"


class Variant(NamedTuple):
    """A change.

    Attributes:
        way: ``forward`` or ``backward``.
        changes: by the names of kernels/tiling/overrides.py.
        ratio: expected time over the unchanged pass's, at the first place; NaN of what is not to be run.
        why: the reason for expecting it, or for not running it.
        kept: what was decided after measuring, "" before.
    """

    name: str
    loop: str
    way: str
    changes: dict[str, Any]
    places: tuple[Place, ...]
    ratio: float
    why: str
    kept: str = ""

    @property
    def change(self) -> str:
        """What is changed, in words: ``BU 32, warps 8``."""
        return ", ".join(f"{name} {value}" for name, value in self.changes.items())


class Trial(NamedTuple):
    """A variant in one pass at one place; ``way`` is one of FORWARD or BACKWARD."""

    variant: Variant
    place: Place
    way: str

    @property
    def title(self) -> str:
        p = self.place
        return f"{self.variant.name}, {p.cell} H{p.H} B{p.B} {p.dtype} {self.way}"

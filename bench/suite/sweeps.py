"""Sweeps: which shapes are measured in which dtypes. A group is a shape with dtype and mode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2
from typing import Any

from gatefuse.bench.storage.sweep_table import SHAPE
from gatefuse.bench.suite import shapes as data
from gatefuse.bench.suite.shapes import Shape

MODES = ("forward", "training")
SWEEPS = ("quick", "full", "real", "lengths", "regimes", "half", "first", "smoke")

# On a GPU, the most telling first; a CPU measures float32 alone, but for the sweep in 16 bits.
DTYPES = {
    "quick": ("bfloat16", "float32"),
    "full": ("bfloat16", "float32"),
    "real": ("bfloat16", "float16", "float32"),
    "lengths": ("bfloat16", "float32"),
    "regimes": ("float16", "bfloat16", "float32"),
    "half": ("bfloat16", "float16"),
    "first": ("bfloat16",),
    "smoke": ("float32",),
}
# A full sweep's limits by device: bytes that one contender's training call may hold, operations of one such call.
FULL_BYTES = {"cpu": 2e9, "cuda": 24e9}
FULL_FLOP = {"cpu": 0.1e12, "cuda": 100e12}
# A real shape on a CPU: more would take minutes a group.
REAL_CPU_FLOP = 0.1e12


@dataclass(frozen=True)
class Group:
    """What contenders are compared in: one shape, dtype (torch's name) and mode.

    sweep: that it is measured in; "" for none. A contender that is slow to build is part of the longer ones alone.
    """

    shape: Shape
    dtype: str
    mode: str
    sweep: str = ""

    @property
    def title(self) -> str:
        name = f" ({self.shape.name})" if self.shape.name else ""
        return f"{self.shape.title} {self.dtype} {self.mode}{name}"

    @property
    def columns(self) -> dict[str, Any]:
        """What tells its rows from those of other groups, by the names of sweep_table.GROUP."""
        shape = {name: getattr(self.shape, name.removeprefix("shape_")) for name in SHAPE}
        return {**shape, "dtype": self.dtype, "mode": self.mode}


def groups(sweep: str, device: str) -> list[Group]:
    """All groups of a sweep on a kind of device, ``"cpu"`` or ``"cuda"``; the modes of a shape follow each other.

    Raises:
        ValueError: no sweep has that name.
    """
    if sweep not in SWEEPS:
        raise ValueError(f"sweep must be one of {', '.join(SWEEPS)}. Got {sweep!r}.")
    dtypes = DTYPES[sweep] if device == "cuda" or sweep == "half" else ("float32",)
    return [Group(shape, dtype, mode, sweep) for shape in shapes(sweep, device) for dtype in dtypes for mode in MODES]


def shapes(sweep: str, device: str) -> list[Shape]:
    """The shapes of a sweep on a kind of device, each once.

    On a GPU, which may be at hand for minutes, those with a name come first, and a grid from its middle outward.
    """
    on_cpu = device == "cpu"
    found: dict[str, Iterable[Shape]] = {
        "quick": data.QUICK if on_cpu else data.QUICK_GPU + data.QUICK,
        "full": (s for s in data.full() if s.bytes <= FULL_BYTES[device] and s.flop <= FULL_FLOP[device]),
        "real": (s for s in data.REAL if not on_cpu or s.flop <= REAL_CPU_FLOP),
        "lengths": data.LENGTHS_CPU if on_cpu else data.LENGTHS,
        "regimes": data.REGIMES_CPU if on_cpu else data.REGIMES,
        "half": data.HALF,
        "first": data.FIRST,
        "smoke": data.SMOKE,
    }
    each = list(dict.fromkeys(found[sweep]))
    if on_cpu:
        return each
    return sorted(each, key=lambda s: (not s.name, _distance(s) if sweep == "full" else 0.0))


def _distance(shape: Shape) -> float:
    """How far a shape lies from the middle of what is asked for, in powers of two."""
    return sum(abs(log2(size / middle)) for size, middle in ((shape.H, 512), (shape.B, 32), (shape.T, 128)))

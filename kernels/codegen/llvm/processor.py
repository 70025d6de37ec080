"""The processor that code is made for: how wide its vectors are, and how many registers hold them."""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple


class Processor(NamedTuple):
    """A target of LLVM's.

    Attributes:
        triple, cpu, features: as LLVM names them.
        bytes: of a vector.
        registers: that hold vectors.
        fused: whether a product and a sum round once.
        bits: of an address.
    """

    triple: str
    cpu: str
    features: str
    bytes: int
    registers: int
    fused: bool
    bits: int = 64

    def lanes(self, size: int) -> int:
        """Numbers of that many bytes in a vector."""
        return self.bytes // size


# By level, what it must have, the vectors' bytes and registers, and whether products and sums are fused.
_LEVELS = {
    "avx512": (("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"), 64, 32, True),
    "avx2": (("avx2", "fma"), 32, 16, True),
    "baseline": ((), 16, 16, False),
}
LEVELS = tuple(_LEVELS)
SETTING = "GATEFUSE_CPU"  # a level, where less is wanted than the processor has


@cache
def this_processor(level: str = "") -> Processor:
    """The processor at hand, or what it has of that level.

    Raises:
        ValueError: no level has that name.
        RuntimeError: the processor has less.
    """
    from llvmlite import binding as llvm

    level = level or os.environ.get(SETTING, "")
    if level and level not in _LEVELS:
        raise ValueError(f"{SETTING} must be one of {', '.join(LEVELS)}. Got {level!r}.")
    triple, cpu, features = llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features()
    if triple.startswith(("aarch64", "arm64")):
        return Processor(triple, cpu, features.flatten(), 16, 32, True)
    if not triple.startswith("x86_64"):
        return Processor(triple, cpu, features.flatten(), 16, 16, False)
    best = next(name for name, (needs, *_) in _LEVELS.items() if all(features.get(f, False) for f in needs))
    if not level:
        level = best
    elif LEVELS.index(level) < LEVELS.index(best):
        raise RuntimeError(f"the processor must have {', '.join(_LEVELS[level][0])}. Got one of the level {best}.")
    _, size, registers, fused = _LEVELS[level]
    if level != best:
        cpu, text = {"avx2": ("x86-64-v3", ""), "baseline": ("x86-64", "")}[level]
        return Processor(triple, cpu, text, size, registers, fused)
    return Processor(triple, cpu, features.flatten(), size, registers, fused)

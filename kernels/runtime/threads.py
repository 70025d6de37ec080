"""torch's own pool of threads for compiled code: GNU's OpenMP, where torch was built with it.

Its threads are those that torch's operators run in: none are added, and torch.set_num_threads holds.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

_forked = False


def _set_forked() -> None:
    global _forked
    _forked = True


# The pool's threads don't live on in a child, where it would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_set_forked)


class Pool(NamedTuple):
    """Addresses: of GOMP_parallel(function, argument, threads, flags), which has each thread of a team call the
    function, and of omp_get_num_threads(), which tells a thread how many they are."""

    parallel: int
    team: int


def available() -> int:
    """How many threads there are now, of which each has a processor: those that wait for one another must not wait for
    one."""
    return 1 if _forked or pool() is None else min(torch.get_num_threads(), _processors())


@cache
def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(most: int) -> int:
    """How many may run a call, of up to so many that would have work."""
    return max(1, min(most, available()))


@cache
def pool() -> Pool | None:
    """None where torch has no such pool."""
    if torch.backends.openmp.is_available():
        for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
            try:
                library = ctypes.CDLL(str(path))
                functions = library.GOMP_parallel, library.omp_get_num_threads
            except (OSError, AttributeError):
                continue
            return Pool(*[ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions])
    return None


def team(count: int) -> dict[str, int]:
    """Arguments by which compiled code runs in a team of so many threads, as codegen/llvm/loops/team.py names them."""
    found = pool() if count > 1 else None
    parallel, function = (0, 0) if found is None else found
    return {"threads": count, "pool": parallel, "team": function, "joined": 0, "arrived": 0}

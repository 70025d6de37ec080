"""Memory that calls of compiled code need, while they run or until their backward, kept by each thread from one call to
the next.

What is large the system would give and take in each call, page by page, which takes as long as the work on it.
"""

from __future__ import annotations

import sys
from threading import local

import torch
from torch import Tensor

from gatefuse.kernels.runtime import debug

_MOST = 1 << 27  # bytes that a thread keeps, of either kind
_LEAST = 1 << 16  # below, the system keeps what it is given back


class _Kept(local):
    def __init__(self) -> None:
        self.memory: dict[torch.dtype, Tensor] = {}
        self.blocks: list[Tensor] = []


_kept = _Kept()


class Scratch:
    """A context in which so many numbers, which hold anything, are the thread's. Another call may begin within it in
    the same thread, by a signal's handler for one, and has memory of its own."""

    def __init__(self, numbers: int, dtype: torch.dtype):
        self._numbers, self._dtype = numbers, dtype

    def __enter__(self) -> Tensor:
        numbers, dtype = self._numbers, self._dtype
        self._keeps = numbers * dtype.itemsize <= _MOST and not debug.on()
        if not self._keeps:
            return debug.empty(torch.empty(0, dtype=dtype, device="cpu"), numbers)
        found = _kept.memory.pop(dtype, None)
        if found is None or found.shape[0] < numbers:
            found = torch.empty(numbers, dtype=dtype, device="cpu")
        self._memory = found
        return found

    def __exit__(self, kind: object, *_: object) -> None:
        if self._keeps and kind is None:
            _kept.memory[self._dtype] = self._memory


def until_freed(like: Tensor, numbers: int) -> Tensor:
    """A tensor of so many numbers, which hold anything, of like's dtype. Its memory is given out again, in the same
    thread, when nobody holds a tensor or a storage of it any more: not a graph, not a hook of saved tensors."""
    bytes = numbers * like.element_size()
    if not _LEAST <= bytes <= _MOST or debug.on() or torch.are_deterministic_algorithms_enabled():
        return debug.empty(like, numbers)
    held = _kept.blocks
    fit = [block for block in held if block.dtype == like.dtype and block.shape[0] >= numbers]
    fitting = min((block for block in fit if _holders(block) == _ALONE), key=len, default=None)
    if fitting is None:
        fitting = torch.empty(numbers, dtype=like.dtype, device="cpu")
        # those that nobody holds were too small, and would be again
        held[:] = [block for block in held if _holders(block) > _ALONE]
        if bytes + sum(block.nbytes for block in held) <= _MOST:
            held.append(fitting)
    return fitting[:numbers]


def _holders(block: Tensor) -> int:
    """How many hold the memory of a tensor: tensors, graphs, and Python's own object of it."""
    storage = block.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) + sys.getrefcount(storage)


_ALONE = _holders(torch.empty(0, device="cpu"))

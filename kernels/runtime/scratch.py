"""Memory that a call of compiled code needs while it runs, kept by each thread from one call to the next.

What is large the system would give and take in each call, page by page, which takes as long as the work on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

import torch
from torch import Tensor

from gatefuse.kernels.runtime import debug

_MOST = 1 << 27  # bytes that a thread keeps
_kept = local()


@contextmanager
def scratch(numbers: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """So many numbers, which hold anything, for as long as the context lasts. Another call may begin within it in the
    same thread, by a signal's handler for one, and has memory of its own."""
    if numbers * dtype.itemsize > _MOST or debug.on():
        yield debug.empty(torch.empty(0, dtype=dtype, device="cpu"), numbers)
        return
    held: dict[str, Tensor] = vars(_kept)
    name = str(dtype)
    found = held.pop(name, None)
    if found is None or found.shape[0] < numbers:
        found = torch.empty(numbers, dtype=dtype, device="cpu")
    yield found
    held[name] = found

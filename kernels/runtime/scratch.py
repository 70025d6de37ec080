"""Memory that a call of compiled code needs while it runs, kept by each thread from one call to the next.

What is large the system would give and take in each call, page by page, which takes as long as the work on it.
"""

from __future__ import annotations

from threading import local

import torch
from torch import Tensor

from gatefuse.kernels.runtime import debug

_MOST = 1 << 27  # bytes that a thread keeps
_kept = local()


def scratch(numbers: int, dtype: torch.dtype) -> Tensor:
    """So many numbers, which hold anything, and are the caller's until it asks again in this thread."""
    if numbers * dtype.itemsize > _MOST or debug.on():
        return debug.empty(torch.empty(0, dtype=dtype, device="cpu"), numbers)
    name = str(dtype)
    found: Tensor | None = getattr(_kept, name, None)
    if found is None or found.shape[0] < numbers:
        found = torch.empty(numbers, dtype=dtype, device="cpu")
        setattr(_kept, name, found)
    return found

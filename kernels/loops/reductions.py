"""Reductions over a sample's units as torch's operators, for loops that run a step at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def of_units(reduces: str, vector: Tensor) -> Tensor:
    """The "mean" of a vector (B, H), or the largest of its units, "amax": (B, 1)."""
    return vector.amax(1, True) if reduces == "amax" else vector.mean(1, keepdim=True)


def d_of_largest(rows: Tensor, vector: Tensor, found: Tensor) -> Tensor:
    """The gradient of a vector (B, H) of whose largest units each unit got ``rows``: these share it.

    Args:
        vector, found: (B, H), what was reduced and to what, as it was compared forward.
    """
    # As torch has it, where one is not-a-number none is the largest: 0 / 0. A sum may be too large for 16 bits where
    # the shares aren't.
    largest = vector == found
    total = rows.sum(1, keepdim=True, dtype=torch.promote_types(rows.dtype, torch.float32))
    return (largest * (total / largest.sum(1, keepdim=True))).to(rows.dtype)

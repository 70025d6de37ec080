"""The rule by which a result may err, of tests, benchmarks and exported objects alike; CONTRIBUTING.md says why."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def error(found: Tensor, reference: Tensor) -> float:
    """The largest error as a part of the result's largest value; NaN where a value is."""
    scale = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((found - reference).abs().max() / scale)


def worst(errors: Iterable[float]) -> float:
    """The largest of some errors; NaN if any is."""
    return max(errors, key=lambda error: (error != error, error))


def allowed(eager: float, eps: float) -> float:
    """By how much a result may err at most.

    Args:
        eager: the eager loop's worst error in the same dtype.
        eps: the unit of rounding of what is multiplied.
    """
    return 2 * eager + 2 * eps

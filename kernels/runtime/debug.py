"""A mode for finding faults among programs that run at once: GATEFUSE_DEBUG=1 in the environment.

Buffers that programs exchange start as NaN, so that what is read before it was written shows; and on CUDA devices each
program pauses before each barrier of the grid, for a time that differs by program and barrier.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor


def on() -> bool:
    """Whether the mode is on."""
    return os.environ.get("GATEFUSE_DEBUG", "") not in ("", "0")


def empty(like: Tensor, *shape: int) -> Tensor:
    """An uninitialized tensor of like's dtype and device, full of NaN in debug mode."""
    return like.new_full(shape, torch.nan) if on() else like.new_empty(shape)


def empties(like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """As empty, of each shape."""
    if on():
        return [like.new_full(shape, torch.nan) for shape in shapes]
    return [like.new_empty(shape) for shape in shapes]

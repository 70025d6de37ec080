"""Modes for finding faults among programs that run at once, from the environment.

GATEFUSE_DEBUG=1: buffers that programs exchange start as NaN, so that what is read before it was written shows; and on
CUDA devices each program pauses before each barrier of the grid, for a time that differs by program and barrier.

GATEFUSE_POLLS=8388608: on CUDA devices a program that has polled so often at one barrier ends the kernel in a trap, and
the device reports an error in place of hanging for good. A poll takes about 0.3 to 0.5 microseconds, so that these are
2 to 4 seconds. Tests and benchmarks set it, with POLLS, where it isn't set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

POLLS = 2**23


def on() -> bool:
    """Whether buffers start as NaN and programs pause."""
    return os.environ.get("GATEFUSE_DEBUG", "") not in ("", "0")


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """A context in which GATEFUSE_DEBUG is on or off, for the process as a whole."""
    before = os.environ.get("GATEFUSE_DEBUG")
    os.environ["GATEFUSE_DEBUG"] = str(int(on))
    try:
        yield
    finally:
        if before is None:
            del os.environ["GATEFUSE_DEBUG"]
        else:
            os.environ["GATEFUSE_DEBUG"] = before


def polls() -> int:
    """Polls of a barrier after which it is given up, 0 for never.

    Raises:
        ValueError: the environment has no such number.
    """
    given = os.environ.get("GATEFUSE_POLLS", "") or "0"
    if not (given.isascii() and given.isdigit()) or int(given) >= 2**31:
        raise ValueError(f"GATEFUSE_POLLS must be a number from 0 to {2**31 - 1}. Got {given!r}.")
    return int(given)


def limit_polls() -> None:
    """Have barriers given up, in this process and those that it starts, unless the environment has a limit."""
    os.environ.setdefault("GATEFUSE_POLLS", str(POLLS))


def empty(like: Tensor, *shape: int) -> Tensor:
    """An uninitialized tensor of like's dtype and device, full of NaN in debug mode."""
    return like.new_full(shape, torch.nan) if on() else like.new_empty(*shape)

"""Reductions of a vector over a sample's units, by tiles and by rows in memory: its mean, or the largest, and backward.

Of the largest, what ties is what was compared forward: the vector as it was multiplied or stored, and not as it was
computed.
"""

import triton
import triton.language as tl

from gatefuse.kernels.triton.mathlib import maximum
from gatefuse.kernels.triton.tile import at_step

# Rows of memory that are taken at a time, so that a reduction takes no more registers than they do.
_ROWS = tl.constexpr(64)


@triton.jit
def mean_of_units(tile, H: tl.constexpr):
    """The mean of H units, of which a tile (units, samples) has all or some, the others zero: their part of it, in
    float32, as (1, samples)."""
    return tl.sum(tile.to(tl.float32), 0)[None, :] / H


@triton.jit
def of_units(tile, there, H: tl.constexpr, p: tl.constexpr, CELL: tl.constexpr):
    """What reduction p makes of H units, of which a tile (units, samples) has those that are ``there``, the others
    zero, in float32 as (1, samples). The largest is not-a-number where one is."""
    if CELL.REDUCES[p] == "amax":
        return tl.reduce(tl.where(there, tile.to(tl.float32), -float("inf")), 0, maximum)[None, :]
    else:
        return mean_of_units(tile, H)


@triton.jit
def of_memory(
    ptr, b, B, H: tl.constexpr, W: tl.constexpr, LOADS: tl.constexpr, BB: tl.constexpr, p: tl.constexpr,
    CELL: tl.constexpr,
):  # fmt: skip
    """What reduction p makes of H units that lie in memory, rows of W a sample, as (1, BB)."""
    row = tl.arange(0, _ROWS)[:, None]
    LEAST: tl.constexpr = -float("inf") if CELL.REDUCES[p] == "amax" else 0.0
    found = tl.full((_ROWS, BB), LEAST, tl.float32)
    for k in tl.static_range(0, H, _ROWS):
        there = (row < H - k) & (b < B)
        values = tl.load(ptr + k + (b * W + row), mask=there, other=LEAST, cache_modifier=LOADS).to(tl.float32)
        if CELL.REDUCES[p] == "amax":
            found = maximum(found, values)
        else:
            found += values
    return of_units(found, row >= 0, H, p, CELL)


@triton.jit
def ties(fed_ptr, saved_ptr, t, T, u, b, B, H: tl.constexpr, W: tl.constexpr, p: tl.constexpr, CELL: tl.constexpr):
    """Which units u (units, 1) of the samples b are the largest that reduction p found at step t."""
    there = (u < H) & (b < B)
    vector = tl.load(fed_ptr + at_step(CELL.FED[p] * T + t, B * W) + (b * W + u), mask=there, other=0.0)
    largest = tl.load(saved_ptr + at_step(CELL.FIRST[p] * T + t, B * W) + b * W, mask=b < B, other=0.0)
    return (there & (vector == largest)).to(tl.float32)


@triton.jit
def ties_in_memory(
    fed_ptr, saved_ptr, t, T, b, B, H: tl.constexpr, W: tl.constexpr, BB: tl.constexpr, p: tl.constexpr,
    CELL: tl.constexpr,
):  # fmt: skip
    """How many of a sample's H units are the largest, (1, BB)."""
    row = tl.arange(0, _ROWS)[:, None]
    count = tl.zeros((_ROWS, BB), tl.float32)
    for k in tl.static_range(0, H, _ROWS):
        count += ties(fed_ptr, saved_ptr, t, T, row + k, b, B, H, W, p, CELL)
    return tl.sum(count, 0)[None, :]

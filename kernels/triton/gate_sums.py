"""A product backward with a sum for each gate, side by side and then added, in place of one sum that runs through all
gates: the warps of a program take a gate each, where a small tile else gives them all the same work in a long chain.

Tiles have a first dimension of the product's gates, made a power of two.
"""

import triton
import triton.language as tl

from gatefuse.kernels.triton.tile import at_step


@triton.jit
def gate_weights(
    weight_ptr, n, k0, p: tl.constexpr, H: tl.constexpr, W: tl.constexpr, CELL: tl.constexpr, KC: tl.constexpr
):
    """Product p's weights, transposed: (PADDED, units multiplied, KC units of the gate from k0 on)."""
    N: tl.constexpr = CELL.PADDED[p]
    gate = tl.arange(0, N)[:, None, None]
    k = k0 + tl.arange(0, KC)[None, None, :]
    inside = (gate < CELL.COUNT[p]) & (n[None, :, :] < H) & (k < H)
    at = ((CELL.FIRST[p] + gate) * W + k) * H + n[None, :, :]
    return tl.load(weight_ptr + at, mask=inside, other=0.0)


@triton.jit
def sum_of_gates(
    weights, d_r_ptr, t, b, k0, B, p: tl.constexpr, H: tl.constexpr, W: tl.constexpr, CELL: tl.constexpr,
    PRECISION: tl.constexpr, LOADS: tl.constexpr, BN: tl.constexpr, CHUNKS: tl.constexpr, KC: tl.constexpr,
    BB: tl.constexpr,
):  # fmt: skip
    """Product p's gate gradients at step t times its weights, (BN, BB)."""
    N: tl.constexpr = CELL.PADDED[p]
    COLUMNS: tl.constexpr = CELL.COLUMNS
    gate = tl.arange(0, N)[:, None, None]
    row = tl.arange(0, KC)[None, :, None]
    at = b[None, :, :] * (COLUMNS * W) + (CELL.FIRST[p] + gate) * W + row
    chunks = ()
    for c in tl.static_range(CHUNKS):
        k = k0 + c * KC
        here = d_r_ptr + at_step(t, B * COLUMNS * W) + k
        there = (gate < CELL.COUNT[p]) & (row < H - k) & (b[None, :, :] < B)
        chunks = chunks + (tl.load(here + at, mask=there, other=0.0, cache_modifier=LOADS),)
    d = tl.zeros((N, BN, BB), tl.float32)
    for c in tl.static_range(CHUNKS):
        d = tl.dot(weights[p * CHUNKS + c], chunks[c], d, input_precision=PRECISION)
    return tl.sum(d, 0)

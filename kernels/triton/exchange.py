"""Values that programs hand to each other without a barrier: each says of itself whether it was written yet.

The memory, which no step uses twice, is filled before the launch with one not-a-number, all of whose bits are set. Who
wants values loads them until none is that pattern. So nothing but the element itself is waited for: PTX promises that a
strong load (relaxed, of the GPU) of an element sees a whole value of that element, from the fill or from its one store,
and one that sees the store once sees it again. Order between elements, for which a barrier needs release and acquire,
isn't used. An element's load has the element's own width, alone or as one of a vector: stores and loads of other widths
than each other's promise nothing. The fill is earlier work on the same stream, which a launch's start orders.

A state that is itself the pattern would be waited for without end: it is stored as another not-a-number. NVIDIA's
arithmetic makes another (0x7fffffff, 0x7fff), but a value that is only passed on, as an initial state of a sample that
has ended, may be any.
"""

import triton
import triton.language as tl


@triton.jit
def _bits(value, HAND: tl.constexpr):
    """A value's bits as int32, never those of the pattern."""
    if HAND.BITS == 32:
        bits = value.to(tl.int32, bitcast=True)
    else:
        bits = value.to(tl.int16, bitcast=True).to(tl.int32)
    return tl.where(bits == -1, HAND.QUIET, bits)


@triton.jit
def store_shared(ptr, value, mask, HAND: tl.constexpr):
    """Store what other programs wait for: plainly, or with HAND (handing.py) as what says that it is there."""
    if HAND is None:
        tl.store(ptr, value, mask=mask)
    else:
        value = value.to(ptr.dtype.element_ty) + tl.zeros(mask.shape, ptr.dtype.element_ty)
        bits = _bits(value, HAND)
        there = (mask != 0).to(tl.int32)
        tl.inline_asm_elementwise(HAND.STORE, "=r,l,r,r", [ptr, bits, there], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def load_present(ptr, b, polled, k: tl.constexpr, H: tl.constexpr, W: tl.constexpr, HAND: tl.constexpr,
                 KC: tl.constexpr, BB: tl.constexpr):  # fmt: skip
    """KC units from k on of the samples b (BB), rows of W from ptr on, as (KC, BB) when they are there; units from H on
    are zero. Where ``polled`` is 0 they are there, whatever they are."""
    LANES: tl.constexpr = HAND.LANES
    row = tl.arange(0, KC // LANES)[None, :] * LANES + k
    # Units that don't exist read the last ones'.
    at = ptr + (tl.trans(b) * W + tl.minimum(row, H - LANES))
    if HAND.WORDS == 1:
        words = tl.inline_asm_elementwise(HAND.LOAD, HAND.OPERANDS, [at, polled], tl.int32, False, HAND.PACK)
    elif HAND.WORDS == 2:
        w0, w1 = tl.inline_asm_elementwise(
            HAND.LOAD, HAND.OPERANDS, [at, polled], (tl.int32, tl.int32), False, HAND.PACK
        )
        words = tl.join(w0, w1)
    else:
        w0, w1, w2, w3 = tl.inline_asm_elementwise(
            HAND.LOAD, HAND.OPERANDS, [at, polled], (tl.int32, tl.int32, tl.int32, tl.int32), False, HAND.PACK
        )
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    # All parts are put side by side at once: each time may take a way through shared memory.
    if HAND.BITS == 16:
        if LANES == 1:
            words = words.to(tl.int16)
        else:
            words = tl.join(words.to(tl.int16), (words >> 16).to(tl.int16))
    values = tl.reshape(words, (BB, KC)).to(ptr.dtype.element_ty, bitcast=True)
    tile = tl.trans(values)
    if k + KC > H:
        tile = tl.where(tl.arange(0, KC)[:, None] < H - k, tile, 0.0)
    return tile

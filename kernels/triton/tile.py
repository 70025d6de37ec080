"""Device functions on tiles (units, samples) that the whole-sequence kernels share.

A tile's rows are units, padded to a power of two HP, and its columns BB samples; u (HP, 1) and b (1, BB) are their
numbers, ``real`` marks those that exist. CELL is codegen.constexpr.CellShape.

Both directions of a layer may lie side by side: rows of memory are then W = 2 H units long, the pointers begin at
those of the program's direction, and ORDER, "forward", "reverse" or "both", says how its steps run.
"""

import triton
import triton.language as tl

from gatefuse.kernels.triton.exchange import store_shared


@triton.jit
def at_step(t, size):
    """Where step t begins in a sequence of ``size`` values a step; int64, since sequences pass 2^31 values."""
    return t.to(tl.int64) * size


@triton.jit
def as_mask(lanes):
    """A mask in which scalars take part. Triton's interpreter makes integers of it, and from 3.9 on loads by none; the
    comparison brings it back, and compiles to nothing."""
    return lanes != 0


@triton.jit
def time_of(i, T, d, ORDER: tl.constexpr):
    """The step that direction d runs as its i-th; below 0 or from T on where that is none."""
    t = i
    if ORDER == "reverse":
        t = T - 1 - i
    elif ORDER == "both":
        t = tl.where(d == 0, i, T - 1 - i)
    return t


@triton.jit
def anew(B, turn, CELL: tl.constexpr):
    """B, by what no compiler knows to be the same in each turn of a loop; turns count from 0.

    Addresses follow from B. Those of a cell with many values would else all be found before the loop, and held in more
    registers than there are."""
    if CELL.MANY_VALUES:
        return B + tl.where(turn == -B, 1, 0)
    else:
        return B


@triton.jit
def weight_chunk(
    weight_ptr, u0, k0, p: tl.constexpr, H: tl.constexpr, W: tl.constexpr, CELL: tl.constexpr, ROWS: tl.constexpr,
    BU: tl.constexpr, KC: tl.constexpr,
):  # fmt: skip
    """Product p's rows of BU units from u0 on in KC columns from k0 on, (PADDED * BU, KC): gate by gate with ROWS
    "gates", unit by unit with "units"."""
    N: tl.constexpr = CELL.PADDED[p]
    row = tl.arange(0, N * BU)[:, None]
    if ROWS == "units":
        gate = row % N
        unit = u0 + row // N
    else:
        gate = row // BU
        unit = u0 + row % BU
    k = k0 + tl.arange(0, KC)[None, :]
    inside = (gate < CELL.COUNT[p]) & (unit < H) & (k < H)
    return tl.load(weight_ptr + ((CELL.FIRST[p] + gate) * W + unit) * H + k, mask=inside, other=0.0)


@triton.jit
def first_of(values, N: tl.constexpr):
    """The first N of a tuple."""
    found = ()
    for k in tl.static_range(N):
        found = found + (values[k],)
    return found


@triton.jit
def split_gates(
    rows, p: tl.constexpr, CELL: tl.constexpr, ROWS: tl.constexpr, HP: tl.constexpr, BB: tl.constexpr
):  # fmt: skip
    """Product p's gates, tiles (HP, BB), out of its padded rows."""
    N: tl.constexpr = CELL.PADDED[p]
    COUNT: tl.constexpr = CELL.COUNT[p]
    return first_of(split_rows(rows, N, ROWS, HP, BB), COUNT)


@triton.jit
def relaid(tile, HP: tl.constexpr, BB: tl.constexpr):
    """The same tile (HP, BB), in another layout than a product's, which spreads neighbouring rows over threads: they
    are brought into one. So Triton moves this value once, and not each on its way from memory and back to it."""
    even, odd = tl.split(tl.permute(tl.reshape(tile, (HP // 2, 2, BB)), (0, 2, 1)))
    # Without the zero Triton may see that both ways together change nothing, and go neither.
    return tl.reshape(tl.permute(tl.join(even + 0.0, odd + 0.0), (0, 2, 1)), (HP, BB))


@triton.jit
def split_rows(rows, N: tl.constexpr, ROWS: tl.constexpr, HP: tl.constexpr, BB: tl.constexpr):
    """N tiles (HP, BB) of (N * HP, BB); N is 1, 2, 4 or 8."""
    # Triton compiles what follows a return, even under a condition it knows: hence the branches.
    if N == 1:
        return (relaid(rows, HP, BB),)  # several are brought there by being split
    elif N == 2:
        return tl.split(gate_last(rows, N, ROWS, HP, BB))
    elif N == 4:
        even, odd = tl.split(tl.reshape(gate_last(rows, N, ROWS, HP, BB), (HP, BB, 2, 2)))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        return (a, b, c, d)
    else:
        even, odd = tl.split(tl.reshape(gate_last(rows, N, ROWS, HP, BB), (HP, BB, 4, 2)))
        ae, cg = tl.split(tl.reshape(even, (HP, BB, 2, 2)))
        bf, dh = tl.split(tl.reshape(odd, (HP, BB, 2, 2)))
        a, e = tl.split(ae)
        c, g = tl.split(cg)
        b, f = tl.split(bf)
        d, h = tl.split(dh)
        return (a, b, c, d, e, f, g, h)


@triton.jit
def gate_last(rows, N: tl.constexpr, ROWS: tl.constexpr, HP: tl.constexpr, BB: tl.constexpr):
    """(N * HP, BB) as (HP, BB, N)."""
    if ROWS == "units":
        return tl.permute(tl.reshape(rows, (HP, N, BB)), (0, 2, 1))
    else:
        return tl.permute(tl.reshape(rows, (N, HP, BB)), (1, 2, 0))


# More parameters than these are loaded anew where they are used.
MANY = tl.constexpr(6)


@triton.jit
def load_x(x_ptr, t, T, u, b, real, B, W: tl.constexpr, CELL: tl.constexpr):
    """Each slot's part of x at step t, zero for slots without one and for steps that are none."""
    values = ()
    within = as_mask(real & (t >= 0) & (t < T))
    for k in tl.static_range(len(CELL.X)):
        value = tl.zeros(real.shape, tl.float32)
        if CELL.X[k] >= 0:
            here = x_ptr + at_step(t, B * CELL.G * W)
            value = tl.load(here + (b * (CELL.G * W) + CELL.X[k] * W + u), mask=within, other=0.0).to(tl.float32)
        values = values + (value,)
    return values


@triton.jit
def load_per_unit(ptr, u, H: tl.constexpr, W: tl.constexpr, COUNT: tl.constexpr):
    """COUNT vectors (H,) as (HP, 1) tiles, ``W`` apart."""
    values = ()
    for k in tl.static_range(COUNT):
        values = values + (tl.load(ptr + k * W + u, mask=u < H, other=0.0).to(tl.float32),)
    return values


@triton.jit
def make_slots(xs, r, bias, CELL: tl.constexpr, HAS_BIAS: tl.constexpr):
    """The slots as far as products are done: x plus, where its column is among r, the product and bias."""
    slots = ()
    for k in tl.static_range(len(CELL.X)):
        value = xs[k]
        if CELL.R[k] >= 0 and CELL.R[k] < len(r):
            if CELL.WEIGHED[CELL.R[k]]:
                value = value + r[CELL.R[k]]
                if HAS_BIAS:
                    value = value + bias[CELL.R[k]]
            else:
                value = r[CELL.R[k]]  # one for all units, which takes fewer registers so
        slots = slots + (value,)
    return slots


@triton.jit
def load_flag(mask_ptr, t, T, b, B):
    """A (T, B) mask at step t, (1, BB); false at steps that are none."""
    return tl.load(mask_ptr + at_step(t, B) + b, mask=as_mask((b < B) & (t >= 0) & (t < T)), other=0) != 0


@triton.jit
def load_masks(restarts_ptr, live_ptr, t, T, b, B, real, HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr):
    """Which samples begin anew at step t, and which go on there; (1, BB), or real where there is no mask."""
    restart = b < 0
    if HAS_RESTARTS:
        restart = load_flag(restarts_ptr, t, T, b, B)
    alive = real
    if HAS_LIVE:
        alive = load_flag(live_ptr, t, T, b, B) & real
    return restart, alive


@triton.jit
def begin(fresh_ptr, states, restart, e, size, real, CELL: tl.constexpr):
    """The states, fresh ones where they begin anew."""
    S: tl.constexpr = CELL.S
    begun = ()
    for s in tl.static_range(S):
        fresh = tl.load(fresh_ptr + s * size + e, mask=real & restart, other=0.0).to(tl.float32)
        begun = begun + (tl.where(restart, fresh, states[s]),)
    return begun


@triton.jit
def load_carry(carry_ptr, e, size, real, N: tl.constexpr):
    """N running values in float32, ``size`` apart."""
    values = ()
    for k in tl.static_range(N):
        values = values + (tl.load(carry_ptr + k * size + e, mask=real, other=0.0),)
    return values


@triton.jit
def store_carry(carry_ptr, values, e, size, real, N: tl.constexpr):
    """Store N running values where load_carry takes them from."""
    for k in tl.static_range(N):
        tl.store(carry_ptr + k * size + e, values[k], mask=real)


@triton.jit
def store_kept(
    output_ptr, rest_ptr, new, before, alive, t, T, e, real, B, W: tl.constexpr,
    CELL: tl.constexpr, KEEP: tl.constexpr, HAS_LIVE: tl.constexpr, HAND: tl.constexpr = None,
):  # fmt: skip
    """The states after step t, new where the sample goes on, else as before; stored into the sequences, with HAND as
    other programs wait for them."""
    S: tl.constexpr = CELL.S
    settled = ()
    for s in tl.static_range(S):
        value = new[s] + tl.zeros(real.shape, tl.float32)
        if HAS_LIVE:
            value = tl.where(alive, value, before[s])
        settled = settled + (value,)
        if s == 0:
            store_shared(output_ptr + at_step(t, B * W) + e, value, real, HAND)
        elif KEEP:
            store_shared(rest_ptr + at_step((s - 1) * T + t, B * W) + e, value, real, HAND)
    return settled


@triton.jit
def store_saved(saved_ptr, slots, t, T, e, size, real, CELL: tl.constexpr):
    """Store the slots that the backward needs and x doesn't hold."""
    for j in tl.static_range(len(CELL.SAVED)):
        if CELL.SAVED[j] >= 0:
            tl.store(saved_ptr + at_step(CELL.SAVED[j] * T + t, size) + e, slots[j], mask=real)

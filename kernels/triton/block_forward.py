"""The block driver's Triton kernel forward: a program owns all recurrent weights and a tile of the batch, and runs all
steps.

Tiles are (HP, BB), so that the gates' rows fill the matrix unit at small batches. The running states stay in registers,
the weights in shared memory, where Triton puts what a loop multiplies and doesn't change. Units beyond H are kept at
zero wherever they enter a product. H is a constant, so that Triton knows how rows are aligned; a new length or batch
compiles nothing. Buffers are those of the step driver (see loops/inputs.py): either driver's backward can follow the
other's forward.
"""

import triton
import triton.language as tl

from gatefuse.kernels.triton.reductions import of_units
from gatefuse.kernels.triton.tile import (
    MANY,
    at_step,
    begin,
    load_carry,
    load_masks,
    load_per_unit,
    load_x,
    make_slots,
    split_gates,
    store_carry,
    store_kept,
    store_saved,
    time_of,
    weight_chunk,
)

# Sizes must not become part of a kernel's key: Triton would compile anew on 1 and on divisibility by 16.
RUNTIME = ("T", "B", "fed_steps")


@triton.jit(do_not_specialize=RUNTIME)
def block_forward_kernel(
    x_ptr, weight_ptr, bias_ptr, params_ptr, restarts_ptr, fresh_ptr, live_ptr,
    output_ptr, rest_ptr, carry_ptr, saved_ptr, fed_ptr, fed_steps, T, B, H: tl.constexpr, W: tl.constexpr,
    UPDATE: tl.constexpr, VECTORS: tl.constexpr, CELL: tl.constexpr, ORDER: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr, KEEP: tl.constexpr, SAVE: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, HP: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """All steps of BB samples. weight (columns * W, H) and bias (columns * W,) lie in the order of the columns;
    carry (S, B, W) comes with the first states in float32 and leaves with the last."""
    S: tl.constexpr = CELL.S
    P: tl.constexpr = CELL.P
    COLUMNS: tl.constexpr = CELL.COLUMNS
    STAGES: tl.constexpr = CELL.STAGES
    dtype: tl.constexpr = output_ptr.dtype.element_ty
    d = tl.program_id(1)
    if ORDER == "both":
        x_ptr += d * H
        weight_ptr += d * H * H
        params_ptr += d * H
        output_ptr += d * H
        rest_ptr += d * H
        carry_ptr += d * H
        saved_ptr += d * H
        fed_ptr += d * H
        if HAS_BIAS:
            bias_ptr += d * H
        if HAS_RESTARTS:
            restarts_ptr += at_step(d, T * B)
            fresh_ptr += d * H
    u = tl.arange(0, HP)[:, None]
    b = (tl.program_id(0) * BB + tl.arange(0, BB))[None, :]
    real = (u < H) & (b < B)
    e = b * W + u

    weights = ()
    for p in tl.static_range(len(CELL.V)):
        if CELL.REDUCES[p] != "":
            weights = weights + (u,)  # in its place, and read by nobody
        else:
            weights = weights + (weight_chunk(weight_ptr, 0, 0, p, H, W, CELL, ROWS, HP, HP),)
    params = load_per_unit(params_ptr, u, H, W, P)
    bias = ()
    if HAS_BIAS:
        bias = load_per_unit(bias_ptr, u, H, W, COLUMNS)
    states = load_carry(carry_ptr, e, B * W, real, S)

    xs = load_x(x_ptr, time_of(T * 0, T, d, ORDER), T, u, b, real, B, W, CELL)
    for i in range(T):
        t = time_of(i, T, d, ORDER)
        # Asked for now, used in the next step: the products of this one hide the way to memory.
        xs_next = load_x(x_ptr, time_of(i + 1, T, d, ORDER), T, u, b, real, B, W, CELL)
        restart, alive = load_masks(restarts_ptr, live_ptr, t, T, b, B, real, HAS_RESTARTS, HAS_LIVE)
        before = states
        if HAS_RESTARTS:
            states = begin(fresh_ptr, states, restart, e, B * W, real, CELL)
        r = ()
        for stage in tl.static_range(1, STAGES + 1):
            if P > MANY:  # which in registers would leave no room for others
                params = load_per_unit(params_ptr, u, H, W, P)
            vectors = ()
            if CELL.COMPUTES[stage - 1]:
                vectors = VECTORS(stage, make_slots(xs, r, bias, CELL, HAS_BIAS), states, params)
            for p in tl.static_range(len(CELL.V)):
                if CELL.STAGE[p] == stage:
                    if CELL.V[p] >= 0:
                        vector = states[CELL.V[p]]
                    else:
                        vector = vectors[CELL.PLACE[p]]
                    # Whatever the equations make of a unit that isn't there must not reach the others.
                    vector = tl.where(real, vector, 0.0).to(dtype)
                    if CELL.V[p] < 0 and SAVE:
                        here = fed_ptr + at_step(CELL.FED[p] * fed_steps + t, B * W)
                        tl.store(here + e, vector, mask=real)
                    if CELL.REDUCES[p] != "":
                        r = r + (of_units(vector, real, H, p, CELL),)
                    else:
                        rows = tl.dot(weights[p], vector, input_precision=PRECISION)
                        r = r + split_gates(rows, p, CELL, ROWS, HP, BB)
        slots = make_slots(xs, r, bias, CELL, HAS_BIAS)
        new = UPDATE(slots, states, params)
        states = store_kept(output_ptr, rest_ptr, new, before, alive, t, T, e, real, B, W, CELL, KEEP, HAS_LIVE)
        if SAVE:
            store_saved(saved_ptr, slots, t, T, e, B * W, real, CELL)
        xs = xs_next
    store_carry(carry_ptr, states, e, B * W, real, S)

"""The grid driver's Triton kernel forward: resident programs own some units' rows of the recurrent weights for the
whole sequence, and meet at a barrier wherever a product needs what the others computed.

A program's tiles are (BU, BB): its units by its samples; the weights stay in shared memory, in chunks of KC columns.
What is exchanged lies at a fresh address each step (the sequences themselves and fed) and is loaded past the L1 cache.
The running states go through memory, in float32, each element read and written by one program alone, though not always
by the same of its threads. Programs in excess of the batch's tiles don't exist; tiles in excess of the programs are
taken in turns within a step, and while a program computes one, the others' arrivals for the next come in. Every program
runs the same number of barriers a tile, whatever its samples' lengths.

The kernel runs ``steps`` steps from the i0-th on. Under Triton's interpreter it is launched a step at a time, and with
UNTIL also a stage at a time: a launch then ends when the vectors of stage UNTIL are stored, and the next one does the
step's beginning anew.
"""

import triton
import triton.language as tl

from gatefuse.kernels.triton.barrier import arrive, block_barrier, grid_barrier, wait
from gatefuse.kernels.triton.exchange import load_present, store_shared
from gatefuse.kernels.triton.reductions import of_memory
from gatefuse.kernels.triton.tile import (
    MANY,
    anew,
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
RUNTIME = ("i0", "steps", "tiles", "T", "B")


@triton.jit
def _zero_rows(p: tl.constexpr, CELL: tl.constexpr, BU: tl.constexpr, BB: tl.constexpr):
    N: tl.constexpr = CELL.PADDED[p]
    return tl.zeros((N * BU, BB), tl.float32)


@triton.jit
def _product(weights, chunk, rows, PRECISION: tl.constexpr, LEFT: tl.constexpr):
    """A chunk's part added to a product's rows; LEFT says which factor fills the rows of the matrix instruction."""
    if LEFT == "states":
        return tl.trans(tl.dot(tl.trans(chunk), tl.trans(weights), tl.trans(rows), input_precision=PRECISION))
    else:
        return tl.dot(weights, chunk, rows, input_precision=PRECISION)


@triton.jit(do_not_specialize=RUNTIME)
def grid_forward_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, params_ptr, restarts_ptr, fresh_ptr, live_ptr,
    output_ptr, rest_ptr, carry_ptr, saved_ptr, fed_ptr, counter_ptr, i0, steps, tiles, T, B, H: tl.constexpr,
    W: tl.constexpr, UPDATE: tl.constexpr, VECTORS: tl.constexpr, CELL: tl.constexpr, ORDER: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr, KEEP: tl.constexpr, SAVE: tl.constexpr,
    PRECISION: tl.constexpr, FORM: tl.constexpr, POLLS: tl.constexpr, LOADS: tl.constexpr, ROWS: tl.constexpr,
    LEFT: tl.constexpr, UNTIL: tl.constexpr, BU: tl.constexpr, KC: tl.constexpr, BB: tl.constexpr,
    HAND: tl.constexpr = None,
):  # fmt: skip
    """carry (S, B, W) holds the running states in float32, from before the first step to after the last; counter
    (directions, tiles) the arrivals at the barriers of each tile of the batch, from zero. With FORM "flag" HAND is how
    programs wait for values themselves and for no arrival; what they exchange was filled for it. See exchange.py."""
    S: tl.constexpr = CELL.S
    P: tl.constexpr = CELL.P
    COLUMNS: tl.constexpr = CELL.COLUMNS
    STAGES: tl.constexpr = CELL.STAGES
    MEETINGS: tl.constexpr = CELL.MEETINGS
    NK: tl.constexpr = (H + KC - 1) // KC
    d = tl.program_id(2)
    if ORDER == "both":
        x_ptr += d * H
        weight_ptr += d * H * H
        initial_ptr += d * H
        params_ptr += d * H
        output_ptr += d * H
        rest_ptr += d * H
        carry_ptr += d * H
        saved_ptr += d * H
        fed_ptr += d * H
        counter_ptr += d * tiles
        if HAS_BIAS:
            bias_ptr += d * H
        if HAS_RESTARTS:
            restarts_ptr += at_step(d, T * B)
            fresh_ptr += d * H
    u0 = tl.program_id(0) * BU
    u = u0 + tl.arange(0, BU)[:, None]
    arrivals = tl.num_programs(0)

    weights = ()
    for p in tl.static_range(len(CELL.V)):
        for c in tl.static_range(NK):
            if CELL.REDUCES[p] != "":
                weights = weights + (u,)  # in its place, and read by nobody
            else:
                weights = weights + (weight_chunk(weight_ptr, u0, c * KC, p, H, W, CELL, ROWS, BU, KC),)
    params = load_per_unit(params_ptr, u, H, W, P)
    bias = ()
    if HAS_BIAS:
        bias = load_per_unit(bias_ptr, u, H, W, COLUMNS)

    for i in range(i0, i0 + steps):
        t = time_of(i, T, d, ORDER)
        t_before = time_of(i - 1, T, d, ORDER)
        for tile in range(tl.program_id(1), tiles, tl.num_programs(1)):
            B = anew(B, tile + i, CELL)
            b = (tile * BB + tl.arange(0, BB))[None, :]
            real = (u < H) & (b < B)
            e = b * W + u
            counter = counter_ptr + tile
            met = i * MEETINGS
            # Nobody writes these: they are on their way while the others are waited for.
            xs = load_x(x_ptr, t, T, u, b, real, B, W, CELL)
            restart, alive = load_masks(restarts_ptr, live_ptr, t, T, b, B, real, HAS_RESTARTS, HAS_LIVE)
            # The own states may have been stored by other threads of this program than those that load them: all must
            # meet between the two, which they do behind a wait, but for the form in which each thread waits for itself.
            if MEETINGS == 0 or FORM == "every" or FORM == "flag":
                block_barrier(FORM)
            if MEETINGS > 0:
                wait(counter, met * arrivals, FORM, POLLS)
            before = load_carry(carry_ptr, e, B * W, real, S)
            states = before
            if HAS_RESTARTS:
                states = begin(fresh_ptr, states, restart, e, B * W, real, CELL)
            r = ()
            for stage in tl.static_range(1, STAGES + 1):
                if P > MANY:  # which in registers would leave no room for others
                    params = load_per_unit(params_ptr, u, H, W, P)
                if CELL.COMPUTES[stage - 1] and (UNTIL == 0 or stage <= UNTIL):
                    vectors = VECTORS(stage, make_slots(xs, r, bias, CELL, HAS_BIAS), states, params)
                    for p in tl.static_range(len(CELL.V)):
                        if CELL.STAGE[p] == stage and CELL.V[p] < 0:
                            here = fed_ptr + at_step(CELL.FED[p] * T + t, B * W)
                            store_shared(here + e, vectors[CELL.PLACE[p]], real, HAND)
                    met += 1
                    grid_barrier(counter, met * arrivals, FORM, POLLS)
                if UNTIL == 0 or stage < UNTIL:
                    for p in tl.static_range(len(CELL.V)):
                        if CELL.STAGE[p] == stage:
                            if CELL.V[p] < 0:
                                here = fed_ptr + at_step(CELL.FED[p] * T + t, B * W)
                            elif CELL.V[p] == 0:
                                here = tl.where(i == 0, initial_ptr, output_ptr + at_step(t_before, B * W))
                            else:
                                row = rest_ptr + at_step((CELL.V[p] - 1) * T + t_before, B * W)
                                here = tl.where(i == 0, initial_ptr + CELL.V[p] * B * W, row)
                            if CELL.REDUCES[p] != "":
                                r = r + (of_memory(here, b, B, H, W, LOADS, BB, p, CELL),)
                            # All chunks are asked for before the first is multiplied.
                            chunks = ()
                            row = tl.arange(0, KC)[:, None]
                            # In a small tile samples that don't exist read the last one's, and nobody stores what comes
                            # of it: a mask by sample takes registers, and more waits come between the loads. In larger
                            # tiles they take more either way.
                            there = b
                            if BB <= 16 or HAND is not None:
                                there = tl.minimum(b, B - 1)
                            for c in tl.static_range(0 if CELL.REDUCES[p] != "" else NK):
                                # The chunks differ by a number, not by a tile of addresses, which would take registers.
                                inside = row < H - c * KC
                                if BB > 16 and HAND is None:
                                    inside = inside & (b < B)
                                at = there * W + row
                                if HAND is None:
                                    chunk = tl.load(here + c * KC + at, mask=inside, other=0.0, cache_modifier=LOADS)
                                else:  # the initial states are there
                                    polled = tl.where(i > 0, 1, 0)
                                    if CELL.V[p] < 0:
                                        polled = tl.where(i >= 0, 1, 0)
                                    chunk = load_present(here, there, polled, c * KC, H, W, HAND, KC, BB)
                                if HAS_RESTARTS and CELL.V[p] >= 0:
                                    other = fresh_ptr + (CELL.V[p] * B * W + c * KC) + at
                                    fresh = tl.load(other, mask=inside & restart, other=0.0)
                                    chunk = tl.where(restart, fresh, chunk)
                                chunks = chunks + (chunk,)
                            if CELL.REDUCES[p] == "":
                                rows = _zero_rows(p, CELL, BU, BB)
                                for c in tl.static_range(NK):
                                    rows = _product(weights[p * NK + c], chunks[c], rows, PRECISION, LEFT)
                                r = r + split_gates(rows, p, CELL, ROWS, BU, BB)
            if UNTIL == 0:
                slots = make_slots(xs, r, bias, CELL, HAS_BIAS)
                new = UPDATE(slots, states, params)
                states = store_kept(
                    output_ptr, rest_ptr, new, before, alive, t, T, e, real, B, W, CELL, KEEP, HAS_LIVE, HAND
                )  # fmt: skip
                if MEETINGS > 0:
                    arrive(counter, FORM)
                # What no other program reads is stored while the others already go on.
                store_carry(carry_ptr, states, e, B * W, real, S)
                if SAVE:
                    store_saved(saved_ptr, slots, t, T, e, B * W, real, CELL)

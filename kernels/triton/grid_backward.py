"""The grid driver's Triton kernel backward; see triton/grid_forward.py.

A program multiplies a part of the gates' gradients, CHUNKS * KC units' of each gate, by the recurrent weights of BN
units, which stay in shared memory, and stores a partial sum in float32. And it owns BU units: it adds their partial
sums, always in the same order, and computes their gates' gradients. So a step has two halves for each phase of the
cell's backward: the gates' gradients of the own units, a barrier, the product, a barrier. With one slice (SLICES 1) a
program's product ends in its own units, and the second barrier is one within the program.

What goes from one half to the next goes through memory, in float32 but for what is multiplied; so tiles of the batch in
excess of the programs are taken in turns within each half. PART is -1 for all of it, or, where a launch's end is the
barrier, the number of a half: 2 * phase + (0 or 1). What the last step's products bring is added after the last step.
"""

import triton
import triton.language as tl

from gatefuse.kernels.triton.barrier import arrive, block_barrier, wait
from gatefuse.kernels.triton.gate_sums import gate_weights, sum_of_gates
from gatefuse.kernels.triton.grid_forward import RUNTIME
from gatefuse.kernels.triton.reductions import mean_of_units, ties, ties_in_memory
from gatefuse.kernels.triton.tile import (
    MANY,
    anew,
    as_mask,
    at_step,
    load_carry,
    load_flag,
    load_masks,
    load_per_unit,
    store_carry,
    time_of,
)
from gatefuse.kernels.triton.tile_backward import (
    add_d_sequences,
    add_where,
    begun_gradients,
    carry_back,
    carry_products,
    load_d_sequences,
    load_slots,
    load_states,
    store_d_slots,
    sum_d_params,
)


@triton.jit
def _sums(
    partial_ptr, e, size, real, phase: tl.constexpr, CELL: tl.constexpr, LOADS: tl.constexpr, SLICES: tl.constexpr,
    BU: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """By product the sum over the slices, zero where the product doesn't come before that phase; -1 for all of them."""
    d_vectors = ()
    for p in tl.static_range(len(CELL.V)):
        d = tl.zeros((BU, BB), tl.float32)
        if phase < 0 or CELL.STAGE[p] > CELL.PHASES[phase]:
            for k in tl.static_range(SLICES):
                here = partial_ptr + (p * SLICES + k) * size
                d += tl.load(here + e, mask=real, other=0.0, cache_modifier=LOADS)
        d_vectors = d_vectors + (d,)
    return d_vectors


@triton.jit
def _carried(
    d_carry, d_fresh_ptr, partial_ptr, restarts_ptr, t_after, T, b, e, real, B, W: tl.constexpr,
    CELL: tl.constexpr, HAS_RESTARTS: tl.constexpr, LOADS: tl.constexpr, SLICES: tl.constexpr, BU: tl.constexpr,
    BB: tl.constexpr,
):  # fmt: skip
    """Gradients of the states after a step, with what the products of the step t_after, which ran next, bring."""
    restart = b < 0
    if HAS_RESTARTS:
        restart = load_flag(restarts_ptr, t_after, T, b, B)
    run = as_mask(real & (t_after >= 0) & (t_after < T))
    d_vectors = _sums(partial_ptr, e, B * W, run, -1, CELL, LOADS, SLICES, BU, BB)
    return carry_products(d_carry, d_vectors, d_fresh_ptr, restart, e, B * W, real, CELL, HAS_RESTARTS)


@triton.jit
def _products(
    weights, d_r_ptr, fed_ptr, saved_ptr, partial_ptr, t, T, b, n, k0, slice, B, H: tl.constexpr, W: tl.constexpr,
    phase: tl.constexpr, CELL: tl.constexpr, PRECISION: tl.constexpr, LOADS: tl.constexpr, SUMS: tl.constexpr,
    BN: tl.constexpr, SLICES: tl.constexpr, CHUNKS: tl.constexpr, KC: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """This program's part of what a phase's products multiplied: their columns' gradients times its weights."""
    COLUMNS: tl.constexpr = CELL.COLUMNS
    for p in tl.static_range(len(CELL.V)):
        if CELL.STAGE[p] == CELL.PHASES[phase]:
            if SUMS == "gates" and CELL.REDUCES[p] == "":
                d = sum_of_gates(weights, d_r_ptr, t, b, k0, B, p, H, W, CELL, PRECISION, LOADS, BN, CHUNKS, KC, BB)
            else:
                # All chunks are asked for before the first is multiplied.
                chunks = ()
                row = tl.arange(0, KC)[:, None]
                for column in tl.static_range(COLUMNS):
                    if column >= CELL.FIRST[p] and column < CELL.FIRST[p] + CELL.COUNT[p]:
                        for c in tl.static_range(CHUNKS):
                            k = k0 + c * KC
                            # The chunks differ by a number, not by a tile of addresses, which would take registers.
                            here = d_r_ptr + at_step(t, B * COLUMNS * W) + (column * W + k)
                            there = (row < H - k) & (b < B)
                            at = b * (COLUMNS * W) + row
                            chunks = chunks + (tl.load(here + at, mask=there, other=0.0, cache_modifier=LOADS),)
                d = tl.zeros((BN, BB), tl.float32)
                for c in tl.static_range(len(chunks)):
                    if CELL.REDUCES[p] == "mean":
                        d += mean_of_units(chunks[c], H)
                    elif CELL.REDUCES[p] == "amax":
                        d += tl.sum(chunks[c].to(tl.float32), 0)[None, :]
                    else:
                        d = tl.dot(weights[CELL.FIRST[p] * CHUNKS + c], chunks[c], d, input_precision=PRECISION)
            if CELL.REDUCES[p] == "amax":
                count = ties_in_memory(fed_ptr, saved_ptr, t, T, b, B, H, W, BB, p, CELL)
                d = ties(fed_ptr, saved_ptr, t, T, n, b, B, H, W, p, CELL) * (d / count)
            sums = partial_ptr + (p * SLICES + slice) * (B * W)
            tl.store(sums + (b * W + n), d, mask=(n < H) & (b < B))


@triton.jit
def _meet(counter, target, CELL: tl.constexpr, FORM: tl.constexpr, POLLS: tl.constexpr, SLICES: tl.constexpr):
    """Until the partial sums are there, and what other threads of this program stored."""
    # Only a last phase without a product is followed by no arrival, in which threads would meet.
    if SLICES == 1 or (FORM == "every" and CELL.PHASES[len(CELL.PHASES) - 1] == 0):
        block_barrier(FORM)
    if SLICES > 1:
        wait(counter, target, FORM, POLLS)


@triton.jit(do_not_specialize=RUNTIME)
def grid_backward_kernel(
    x_ptr, saved_ptr, weight_ptr, initial_ptr, params_ptr, restarts_ptr, fresh_ptr, live_ptr, output_ptr, rest_ptr,
    fed_ptr, d_output_ptr, d_rest_ptr, d_x_ptr, d_r_ptr, d_carry_ptr, d_params_ptr, d_fresh_ptr, partial_ptr,
    counter_ptr, i0, steps, tiles, T, B, H: tl.constexpr, W: tl.constexpr,
    BACKWARD: tl.constexpr, CELL: tl.constexpr, ORDER: tl.constexpr,
    HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr, HAS_D_REST: tl.constexpr,
    PRECISION: tl.constexpr, FORM: tl.constexpr, POLLS: tl.constexpr, LOADS: tl.constexpr, SUMS: tl.constexpr,
    PART: tl.constexpr, BU: tl.constexpr, BN: tl.constexpr, SLICES: tl.constexpr, CHUNKS: tl.constexpr,
    KC: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """Steps backward, the i0-th and on. d_carry, d_params and d_fresh as in the block driver's kernel; partial
    (products, SLICES, B, W) in float32 and counter (directions, tiles) as in triton/grid_forward.py are scratch."""
    S: tl.constexpr = CELL.S
    P: tl.constexpr = CELL.P
    COLUMNS: tl.constexpr = CELL.COLUMNS
    LAST: tl.constexpr = len(CELL.PHASES) - 1
    HALVES: tl.constexpr = 2 if SLICES > 1 else 1
    # Other threads of this program may have stored d_carry: before the wait it may be loaded where all have met since.
    EARLY: tl.constexpr = CELL.PHASES[LAST] > 0 and (SLICES > 1 or FORM != "every")
    d = tl.program_id(2)
    if ORDER == "both":
        x_ptr += d * H
        saved_ptr += d * H
        weight_ptr += d * H * H
        initial_ptr += d * H
        params_ptr += d * H
        output_ptr += d * H
        rest_ptr += d * H
        if CELL.TIES:
            fed_ptr += d * H
        d_output_ptr += d * H
        d_x_ptr += d * H
        d_r_ptr += d * H
        d_carry_ptr += d * H
        d_params_ptr += d * H
        partial_ptr += d * H
        counter_ptr += d * tiles
        if HAS_D_REST:
            d_rest_ptr += d * H
        if HAS_RESTARTS:
            restarts_ptr += at_step(d, T * B)
            fresh_ptr += d * H
            d_fresh_ptr += d * H
    u = tl.program_id(0) * BU + tl.arange(0, BU)[:, None]
    n = tl.program_id(0) // SLICES * BN + tl.arange(0, BN)[:, None]
    slice = tl.program_id(0) % SLICES
    k0 = slice * (CHUNKS * KC)
    arrivals = tl.num_programs(0)

    # One transposed tile (units multiplied, units of the gate) for each column and chunk.
    weights = ()
    if SUMS == "gates":
        for p in tl.static_range(len(CELL.V)):
            for c in tl.static_range(CHUNKS):
                if CELL.REDUCES[p] != "":
                    weights = weights + (n,)  # in its place, and read by nobody
                else:
                    weights = weights + (gate_weights(weight_ptr, n, k0 + c * KC, p, H, W, CELL, KC),)
    else:
        for column in tl.static_range(COLUMNS):
            for c in tl.static_range(CHUNKS):
                k = k0 + c * KC + tl.arange(0, KC)[None, :]
                inside = (n < H) & (k < H)
                if CELL.WEIGHED[column]:
                    weights = weights + (tl.load(weight_ptr + (column * W + k) * H + n, mask=inside, other=0.0),)
                else:
                    weights = weights + (n,)
    params = load_per_unit(params_ptr, u, H, W, P)

    for i in range(i0, i0 + steps):
        t = time_of(T - 1 - i, T, d, ORDER)
        t_before = time_of(T - 2 - i, T, d, ORDER)
        met = i * (CELL.UNDONE * HALVES)
        for phase in tl.static_range(LAST + 1):
            if PART < 0 or 2 * phase == PART:
                for tile in range(tl.program_id(1), tiles, tl.num_programs(1)):
                    B = anew(B, tile + i + phase, CELL)
                    b = (tile * BB + tl.arange(0, BB))[None, :]
                    real = (u < H) & (b < B)
                    e = b * W + u
                    restart, alive = load_masks(restarts_ptr, live_ptr, t, T, b, B, real, HAS_RESTARTS, HAS_LIVE)
                    slots = load_slots(x_ptr, saved_ptr, t, T, u, b, e, real, B, W, CELL)
                    states = load_states(
                        initial_ptr, output_ptr, rest_ptr, fresh_ptr, t_before, T, restart, e, real, B, W, CELL,
                        HAS_RESTARTS,
                    )  # fmt: skip
                    if phase == 0:
                        d_given = load_d_sequences(d_output_ptr, d_rest_ptr, t, T, e, real, B, W, CELL, HAS_D_REST)
                    if phase == 0 and EARLY:
                        d_states = load_carry(d_carry_ptr, e, B * W, real, S)
                    _meet(counter_ptr + tile, met * arrivals, CELL, FORM, POLLS, SLICES)
                    if phase > 0 or not EARLY:
                        d_states = load_carry(d_carry_ptr, e, B * W, real, S)
                    if phase == 0:
                        d_states = _carried(
                            d_states, d_fresh_ptr, partial_ptr, restarts_ptr, time_of(T - i, T, d, ORDER), T, b, e,
                            real, B, W, CELL, HAS_RESTARTS, LOADS, SLICES, BU, BB,
                        )  # fmt: skip
                        d_states = add_d_sequences(d_states, d_given, CELL)
                        if LAST > 0:
                            store_carry(d_carry_ptr, d_states, e, B * W, real, S)
                    d_vectors = _sums(partial_ptr, e, B * W, real, phase, CELL, LOADS, SLICES, BU, BB)
                    if P > MANY:
                        params = load_per_unit(params_ptr, u, H, W, P)
                    grads = BACKWARD(phase, slots, states, params, d_states, d_vectors)
                    store_d_slots(d_x_ptr, d_r_ptr, grads, alive, t, u, b, real, B, phase, W, CELL)
                    if CELL.PHASES[phase] > 0:
                        arrive(counter_ptr + tile, FORM)
                    if phase == LAST:
                        d_begun = begun_gradients(grads, (), real, CELL)
                        if HAS_RESTARTS:
                            for s in tl.static_range(S):
                                add_where(d_fresh_ptr + s * B * W + e, d_begun[s], real & alive & restart)
                        d_states = carry_back(d_begun, d_states, restart, alive, CELL)
                        store_carry(d_carry_ptr, d_states, e, B * W, real, S)
                        d_params = load_carry(d_params_ptr, e, B * W, real, P)
                        store_carry(d_params_ptr, sum_d_params(d_params, grads, alive, CELL), e, B * W, real, P)
            if CELL.PHASES[phase] > 0 and (PART < 0 or 2 * phase + 1 == PART):
                met += 1
                for tile in range(tl.program_id(1), tiles, tl.num_programs(1)):
                    B = anew(B, tile + i + phase, CELL)
                    b = (tile * BB + tl.arange(0, BB))[None, :]
                    wait(counter_ptr + tile, met * arrivals, FORM, POLLS)
                    _products(
                        weights, d_r_ptr, fed_ptr, saved_ptr, partial_ptr, t, T, b, n, k0, slice, B, H, W, phase, CELL,
                        PRECISION, LOADS, SUMS, BN, SLICES, CHUNKS, KC, BB,
                    )  # fmt: skip
                    if SLICES > 1:
                        arrive(counter_ptr + tile, FORM)
                if SLICES > 1:
                    met += 1
    ended = i0 + steps == T
    if PART >= 0:
        ended = steps == 0
    if ended:
        for tile in range(tl.program_id(1), tiles, tl.num_programs(1)):
            b = (tile * BB + tl.arange(0, BB))[None, :]
            real = (u < H) & (b < B)
            e = b * W + u
            _meet(counter_ptr + tile, T * (CELL.UNDONE * HALVES) * arrivals, CELL, FORM, POLLS, SLICES)
            d_states = load_carry(d_carry_ptr, e, B * W, real, S)
            d_states = _carried(
                d_states, d_fresh_ptr, partial_ptr, restarts_ptr, time_of(T * 0, T, d, ORDER), T, b, e, real,
                B, W, CELL, HAS_RESTARTS, LOADS, SLICES, BU, BB,
            )  # fmt: skip
            store_carry(d_carry_ptr, d_states, e, B * W, real, S)

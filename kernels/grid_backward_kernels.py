"""The grid driver's Triton kernel backward; see grid_kernels.py.

A program owns some units. In each phase it yields the gradients of its units' gates, meets the others, and multiplies
all units' gate gradients by the recurrent weights' columns of its own units, which stay in shared memory.
"""

import triton
import triton.language as tl

from gatefuse.kernels.barrier_kernels import grid_barrier
from gatefuse.kernels.grid_kernels import RUNTIME
from gatefuse.kernels.tile_backward_kernels import (
    add_d_sequences,
    carry_back,
    load_slots,
    load_states,
    store_d_slots,
    sum_d_params,
)
from gatefuse.kernels.tile_kernels import at_step, load_flag, load_per_unit


@triton.jit(do_not_specialize=RUNTIME)
def grid_backward_kernel(
    x_ptr, saved_ptr, weight_ptr, initial_ptr, params_ptr, restarts_ptr, live_ptr, output_ptr, rest_ptr,
    d_output_ptr, d_rest_ptr, d_carry_ptr, d_x_ptr, d_r_ptr, d_params_ptr, counter_ptr, b0, i0, steps, T, B,
    H: tl.constexpr, BACKWARD: tl.constexpr, CELL: tl.constexpr, REVERSE: tl.constexpr,
    HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr, HAS_D_REST: tl.constexpr,
    PRECISION: tl.constexpr, FORM: tl.constexpr, UNTIL: tl.constexpr,
    BU: tl.constexpr, KC: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """Steps backward, the i0-th and on. d_carry and d_params go from launch to launch, as in the block driver's kernel.

    With UNTIL, a launch ends when the UNTIL-th phase's gate gradients are stored.
    """
    S: tl.constexpr = len(CELL.INIT)
    P: tl.constexpr = CELL.P
    COLUMNS: tl.constexpr = CELL.COLUMNS
    NK: tl.constexpr = (H + KC - 1) // KC
    u = tl.program_id(0) * BU + tl.arange(0, BU)[:, None]
    b = (b0 + tl.program_id(1) * BB + tl.arange(0, BB))[None, :]
    real = (u < H) & (b < B)
    e = b * H + u
    zero = tl.zeros((BU, BB), tl.float32)
    counter = counter_ptr + tl.program_id(1)
    arrivals = tl.num_programs(0)

    # One transposed tile (own units, units of the gate) for each column and chunk.
    weights = ()
    for column in tl.static_range(COLUMNS):
        for c in tl.static_range(NK):
            k = c * KC + tl.arange(0, KC)[None, :]
            inside = (u < H) & (k < H)
            weights = weights + (tl.load(weight_ptr + (column * H + k) * H + u, mask=inside, other=0.0),)
    params = load_per_unit(params_ptr, u, H, real, P)
    d_carry = ()
    for s in tl.static_range(S):
        d_carry = d_carry + (tl.load(d_carry_ptr + s * B * H + e, mask=real, other=0.0),)
    d_params = ()
    for p in tl.static_range(P):
        d_params = d_params + (tl.load(d_params_ptr + p * B * H + e, mask=real, other=0.0),)

    met = 0
    for i in range(i0, i0 + steps):
        t = T - 1 - i
        t_before = T - 2 - i
        if REVERSE:
            t = i
            t_before = i + 1
        slots = load_slots(x_ptr, saved_ptr, t, T, u, b, e, real, B, H, CELL)
        restart = (b + u) < 0
        if HAS_RESTARTS:
            restart = load_flag(restarts_ptr, t, T, b, B) & real
        alive = real
        if HAS_LIVE:
            alive = load_flag(live_ptr, t, T, b, B) & real
        states = load_states(initial_ptr, output_ptr, rest_ptr, t_before, T, restart, e, real, B, H, CELL, HAS_RESTARTS)
        d_states = add_d_sequences(d_carry, d_output_ptr, d_rest_ptr, t, T, e, real, B, H, CELL, HAS_D_REST)
        d_vectors = ()
        for _ in tl.static_range(len(CELL.V)):
            d_vectors = d_vectors + (zero,)
        for phase in tl.static_range(len(CELL.PHASES)):
            if UNTIL == 0 or phase < UNTIL:
                grads = BACKWARD(phase, slots, states, params, d_states, d_vectors)
                store_d_slots(d_x_ptr, d_r_ptr, grads, alive, t, u, b, real, B, phase, H, CELL)
                if CELL.PHASES[phase] > 0 and (UNTIL == 0 or phase + 1 < UNTIL):
                    met += 1
                    grid_barrier(counter, met * arrivals, FORM)
                    multiplied = ()
                    for p in tl.static_range(len(CELL.V)):
                        d_vector = d_vectors[p]
                        if CELL.STAGE[p] == CELL.PHASES[phase]:
                            here = d_r_ptr + at_step(t, B * COLUMNS * H)
                            for column in tl.static_range(COLUMNS):
                                if column >= CELL.FIRST[p] and column < CELL.FIRST[p] + CELL.COUNT[p]:
                                    for c in tl.static_range(NK):
                                        row = c * KC + tl.arange(0, KC)[:, None]
                                        there = (row < H) & (b < B)
                                        at = b * (COLUMNS * H) + column * H + row
                                        d = tl.load(here + at, mask=there, other=0.0, cache_modifier=".cg")
                                        d_vector = tl.dot(
                                            weights[column * NK + c], d, d_vector, input_precision=PRECISION
                                        )
                        multiplied = multiplied + (d_vector,)
                    d_vectors = multiplied
        if UNTIL == 0:
            d_carry = carry_back(grads, d_vectors, d_states, restart, alive, CELL)
            d_params = sum_d_params(d_params, grads, alive, CELL)
    if UNTIL == 0:
        for s in tl.static_range(S):
            tl.store(d_carry_ptr + s * B * H + e, d_carry[s], mask=real)
        for p in tl.static_range(P):
            tl.store(d_params_ptr + p * B * H + e, d_params[p], mask=real)

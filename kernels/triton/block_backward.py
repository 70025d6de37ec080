"""The block driver's Triton kernel backward; see triton/block_forward.py."""

import triton
import triton.language as tl

from gatefuse.kernels.triton.block_forward import RUNTIME
from gatefuse.kernels.triton.reductions import mean_of_units, ties
from gatefuse.kernels.triton.tile import (
    MANY,
    anew,
    as_mask,
    at_step,
    load_carry,
    load_masks,
    load_per_unit,
    relaid,
    store_carry,
    time_of,
)
from gatefuse.kernels.triton.tile_backward import (
    add_d_sequences,
    begun_gradients,
    carry_back,
    load_d_sequences,
    load_slots,
    load_states,
    store_d_slots,
    sum_d_fresh,
    sum_d_params,
)


@triton.jit
def _load_step(
    x_ptr, saved_ptr, initial_ptr, output_ptr, rest_ptr, restarts_ptr, fresh_ptr, live_ptr, i, T, d, u, b, e, real, B,
    W: tl.constexpr, CELL: tl.constexpr, ORDER: tl.constexpr, HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr,
):  # fmt: skip
    """What the i-th step backward reads of the forward: slots, masks, states before it."""
    t = time_of(T - 1 - i, T, d, ORDER)
    t_before = time_of(T - 2 - i, T, d, ORDER)
    slots = load_slots(x_ptr, saved_ptr, t, T, u, b, e, real, B, W, CELL)
    restart, alive = load_masks(restarts_ptr, live_ptr, t, T, b, B, real, HAS_RESTARTS, HAS_LIVE)
    states = load_states(
        initial_ptr, output_ptr, rest_ptr, fresh_ptr, t_before, T, restart, e, real, B, W, CELL, HAS_RESTARTS
    )
    return slots, restart, alive, states


@triton.jit(do_not_specialize=RUNTIME)
def block_backward_kernel(
    x_ptr, saved_ptr, weight_ptr, initial_ptr, params_ptr, restarts_ptr, fresh_ptr, live_ptr, output_ptr, rest_ptr,
    fed_ptr, d_output_ptr, d_rest_ptr, d_x_ptr, d_r_ptr, d_carry_ptr, d_params_ptr, d_fresh_ptr, T, B,
    H: tl.constexpr, W: tl.constexpr, BACKWARD: tl.constexpr, CELL: tl.constexpr, ORDER: tl.constexpr,
    HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr, HAS_D_REST: tl.constexpr,
    PRECISION: tl.constexpr, AHEAD: tl.constexpr, RELAID: tl.constexpr, HP: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """All steps of BB samples, backward.

    d_carry (S, B, W) comes with the gradients of the last states and leaves with those of the first; d_params
    (P, B, W) gets sums over the steps, d_fresh (S, B, W) over those that begin anew. With AHEAD a step asks for what
    the next one reads; with RELAID a product's result changes its layout, see relaid.
    """
    S: tl.constexpr = CELL.S
    P: tl.constexpr = CELL.P
    COLUMNS: tl.constexpr = CELL.COLUMNS
    dtype: tl.constexpr = output_ptr.dtype.element_ty
    d = tl.program_id(1)
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
        if HAS_D_REST:
            d_rest_ptr += d * H
        if HAS_RESTARTS:
            restarts_ptr += at_step(d, T * B)
            fresh_ptr += d * H
            d_fresh_ptr += d * H
    u = tl.arange(0, HP)[:, None]
    b = (tl.program_id(0) * BB + tl.arange(0, BB))[None, :]
    real = (u < H) & (b < B)
    e = b * W + u
    zero = tl.zeros((HP, BB), tl.float32)

    # One transposed tile (units multiplied, units of the gate) for each column.
    weights = ()
    row = tl.arange(0, HP)[None, :]
    for c in tl.static_range(COLUMNS):
        inside = (u < H) & (row < H)
        if CELL.WEIGHED[c]:
            weights = weights + (tl.load(weight_ptr + (c * W + row) * H + u, mask=inside, other=0.0),)
        else:
            weights = weights + (u,)  # in its place, and read by nobody
    params = load_per_unit(params_ptr, u, H, W, P)
    d_carry = load_carry(d_carry_ptr, e, B * W, real, S)
    d_params = load_carry(d_params_ptr, e, B * W, real, P)
    if HAS_RESTARTS:
        d_fresh = load_carry(d_fresh_ptr, e, B * W, real, S)

    if AHEAD:
        slots, restart, alive, states = _load_step(
            x_ptr, saved_ptr, initial_ptr, output_ptr, rest_ptr, restarts_ptr, fresh_ptr, live_ptr, T * 0, T, d, u, b,
            e, real, B, W, CELL, ORDER, HAS_RESTARTS, HAS_LIVE,
        )  # fmt: skip
        last = time_of(T - 1, T, d, ORDER)
        d_given = load_d_sequences(d_output_ptr, d_rest_ptr, last, T, e, real, B, W, CELL, HAS_D_REST)
    for i in range(T):
        B = anew(B, i, CELL)
        t = time_of(T - 1 - i, T, d, ORDER)
        if AHEAD:
            more = as_mask(real & (i + 1 < T))
            slots_next, restart_next, alive_next, states_next = _load_step(
                x_ptr, saved_ptr, initial_ptr, output_ptr, rest_ptr, restarts_ptr, fresh_ptr, live_ptr, i + 1, T, d, u,
                b, e, more, B, W, CELL, ORDER, HAS_RESTARTS, HAS_LIVE,
            )  # fmt: skip
            t_next = time_of(T - 2 - i, T, d, ORDER)
            d_states = add_d_sequences(d_carry, d_given, CELL)
            d_given = load_d_sequences(d_output_ptr, d_rest_ptr, t_next, T, e, more, B, W, CELL, HAS_D_REST)
        else:
            slots, restart, alive, states = _load_step(
                x_ptr, saved_ptr, initial_ptr, output_ptr, rest_ptr, restarts_ptr, fresh_ptr, live_ptr, i, T, d, u, b,
                e, real, B, W, CELL, ORDER, HAS_RESTARTS, HAS_LIVE,
            )  # fmt: skip
            given = load_d_sequences(d_output_ptr, d_rest_ptr, t, T, e, real, B, W, CELL, HAS_D_REST)
            d_states = add_d_sequences(d_carry, given, CELL)

        d_vectors = ()
        for _ in tl.static_range(len(CELL.V)):
            d_vectors = d_vectors + (zero,)
        for phase in tl.static_range(len(CELL.PHASES)):
            if P > MANY:
                params = load_per_unit(params_ptr, u, H, W, P)
            grads = BACKWARD(phase, slots, states, params, d_states, d_vectors)
            store_d_slots(d_x_ptr, d_r_ptr, grads, alive, t, u, b, real, B, phase, W, CELL)
            d_columns = ()
            for c in tl.static_range(COLUMNS):
                d_column = zero
                for j in tl.static_range(len(CELL.EMITS[phase])):
                    if CELL.R[CELL.EMITS[phase][j]] == c:
                        d_column = tl.where(alive, grads[j], 0.0)
                d_columns = d_columns + (d_column.to(dtype),)
            multiplied = ()
            for p in tl.static_range(len(CELL.V)):
                d_vector = d_vectors[p]
                if CELL.STAGE[p] == CELL.PHASES[phase]:
                    for c in tl.static_range(COLUMNS):
                        if c >= CELL.FIRST[p] and c < CELL.FIRST[p] + CELL.COUNT[p]:
                            if CELL.REDUCES[p] == "mean":
                                d_vector = mean_of_units(d_columns[c], H)
                            elif CELL.REDUCES[p] == "amax":
                                tied = ties(fed_ptr, saved_ptr, t, T, u, b, B, H, W, p, CELL)
                                total = tl.sum(d_columns[c].to(tl.float32), 0)
                                d_vector = tied * (total / tl.sum(tied, 0))[None, :]
                            else:
                                d_vector = tl.dot(weights[c], d_columns[c], d_vector, input_precision=PRECISION)
                    if RELAID and CELL.REDUCES[p] == "":
                        d_vector = relaid(d_vector, HP, BB)
                multiplied = multiplied + (d_vector,)
            d_vectors = multiplied

        d_begun = begun_gradients(grads, d_vectors, real, CELL)
        if HAS_RESTARTS:
            d_fresh = sum_d_fresh(d_fresh, d_begun, alive & restart, CELL)
        d_carry = carry_back(d_begun, d_states, restart, alive, CELL)
        d_params = sum_d_params(d_params, grads, alive, CELL)
        if AHEAD:
            slots, restart, alive, states = slots_next, restart_next, alive_next, states_next
    store_carry(d_carry_ptr, d_carry, e, B * W, real, S)
    store_carry(d_params_ptr, d_params, e, B * W, real, P)
    if HAS_RESTARTS:
        store_carry(d_fresh_ptr, d_fresh, e, B * W, real, S)

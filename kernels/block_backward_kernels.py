"""The block driver's Triton kernel backward; see block_kernels.py."""

import triton
import triton.language as tl

from gatefuse.kernels.block_kernels import RUNTIME
from gatefuse.kernels.tile_kernels import at_step, load_flag, load_per_unit


@triton.jit(do_not_specialize=RUNTIME)
def block_backward_kernel(
    x_ptr, saved_ptr, weight_ptr, initial_ptr, params_ptr, restarts_ptr, live_ptr, output_ptr, rest_ptr,
    d_output_ptr, d_rest_ptr, d_carry_ptr, d_x_ptr, d_r_ptr, d_params_ptr, T, B, H: tl.constexpr,
    BACKWARD: tl.constexpr, CELL: tl.constexpr, REVERSE: tl.constexpr,
    HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr, HAS_D_REST: tl.constexpr,
    PRECISION: tl.constexpr, HP: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    """All steps of BB samples, backward.

    d_carry (S, B, H) comes with the gradients of the last states and leaves with those of the first; d_params
    (P, B, H) gets sums over the steps.
    """
    S: tl.constexpr = len(CELL.INIT)
    P: tl.constexpr = CELL.P
    COLUMNS: tl.constexpr = CELL.COLUMNS
    dtype: tl.constexpr = output_ptr.dtype.element_ty
    u = tl.arange(0, HP)[:, None]
    b = (tl.program_id(0) * BB + tl.arange(0, BB))[None, :]
    real = (u < H) & (b < B)
    e = b * H + u
    zero = tl.zeros((HP, BB), tl.float32)

    # One transposed tile (units multiplied, units of the gate) for each column.
    weights = ()
    row = tl.arange(0, HP)[None, :]
    for c in tl.static_range(COLUMNS):
        inside = (u < H) & (row < H)
        weights = weights + (tl.load(weight_ptr + (c * H + row) * H + u, mask=inside, other=0.0),)
    params = load_per_unit(params_ptr, u, H, real, P)
    d_carry = ()
    for s in tl.static_range(S):
        d_carry = d_carry + (tl.load(d_carry_ptr + s * B * H + e, mask=real, other=0.0),)
    d_params = ()
    for _ in tl.static_range(P):
        d_params = d_params + (zero,)

    for i in range(T):
        t = T - 1 - i
        t_before = T - 2 - i
        if REVERSE:
            t = i
            t_before = i + 1
        began = (t_before < 0) | (t_before >= T)
        slots = ()
        for j in tl.static_range(len(CELL.X)):
            if CELL.SAVED[j] >= 0:
                here = saved_ptr + at_step(CELL.SAVED[j] * T + t, B * H)
                slots = slots + (tl.load(here + e, mask=real, other=0.0).to(tl.float32),)
            else:
                here = x_ptr + at_step(t, B * CELL.G * H)
                slots = slots + (
                    tl.load(here + (b * (CELL.G * H) + CELL.X[j] * H + u), mask=real, other=0.0).to(tl.float32),
                )
        restart = (b + u) < 0
        if HAS_RESTARTS:
            restart = load_flag(restarts_ptr, t, T, b, B)
        alive = real
        if HAS_LIVE:
            alive = load_flag(live_ptr, t, T, b, B)
        states = ()
        d_states = ()
        for s in tl.static_range(S):
            first = tl.load(initial_ptr + s * B * H + e, mask=real & began, other=0.0).to(tl.float32)
            d = d_carry[s]
            if s == 0:
                state = first + tl.load(output_ptr + at_step(t_before, B * H) + e, mask=real & (began == 0), other=0.0)
                d += tl.load(d_output_ptr + at_step(t, B * H) + e, mask=real, other=0.0).to(tl.float32)
            else:
                here = rest_ptr + at_step((s - 1) * T + t_before, B * H)
                state = first + tl.load(here + e, mask=real & (began == 0), other=0.0)
                if HAS_D_REST:
                    here = d_rest_ptr + at_step((s - 1) * T + t, B * H)
                    d += tl.load(here + e, mask=real, other=0.0).to(tl.float32)
            if HAS_RESTARTS:
                state = tl.where(restart, CELL.INIT[s], state)
            states = states + (state,)
            d_states = d_states + (d,)

        d_vectors = ()
        for _ in tl.static_range(len(CELL.V)):
            d_vectors = d_vectors + (zero,)
        for phase in tl.static_range(len(CELL.PHASES)):
            grads = BACKWARD(phase, slots, states, params, d_states, d_vectors)
            d_columns = ()
            for c in tl.static_range(COLUMNS):
                d_column = zero
                for j in tl.static_range(len(CELL.EMITS[phase])):
                    if CELL.R[CELL.EMITS[phase][j]] == c:
                        d_column = tl.where(alive & real, grads[j], 0.0)
                d_columns = d_columns + (d_column.to(dtype),)
            for j in tl.static_range(len(CELL.EMITS[phase])):
                d = tl.where(alive, grads[j], 0.0)
                if CELL.X[CELL.EMITS[phase][j]] >= 0:
                    here = d_x_ptr + at_step(t, B * CELL.G * H)
                    tl.store(here + (b * (CELL.G * H) + CELL.X[CELL.EMITS[phase][j]] * H + u), d, mask=real)
                if CELL.R[CELL.EMITS[phase][j]] >= 0 and not CELL.ADDITIVE:
                    here = d_r_ptr + at_step(t, B * CELL.COLUMNS * H)
                    tl.store(here + (b * (CELL.COLUMNS * H) + CELL.R[CELL.EMITS[phase][j]] * H + u), d, mask=real)
            multiplied = ()
            for p in tl.static_range(len(CELL.V)):
                d_vector = d_vectors[p]
                if CELL.STAGE[p] == CELL.PHASES[phase]:
                    for c in tl.static_range(COLUMNS):
                        if c >= CELL.FIRST[p] and c < CELL.FIRST[p] + CELL.COUNT[p]:
                            d_vector = tl.dot(weights[c], d_columns[c], d_vector, input_precision=PRECISION)
                multiplied = multiplied + (d_vector,)
            d_vectors = multiplied

        # The last phase has yielded the states' gradients, behind those of its slots.
        E: tl.constexpr = len(CELL.EMITS[len(CELL.PHASES) - 1])
        carried = ()
        for s in tl.static_range(S):
            d = grads[E + s] + zero
            for p in tl.static_range(len(CELL.V)):
                if CELL.V[p] == s:
                    d += d_vectors[p]
            d = tl.where(restart, 0.0, d)
            carried = carried + (tl.where(alive, d, d_states[s]),)
        d_carry = carried
        summed = ()
        for p in tl.static_range(P):
            summed = summed + (d_params[p] + tl.where(alive & real, grads[E + S + p], 0.0),)
        d_params = summed
    for s in tl.static_range(S):
        tl.store(d_carry_ptr + s * B * H + e, d_carry[s], mask=real)
    for p in tl.static_range(P):
        tl.store(d_params_ptr + p * B * H + e, d_params[p], mask=real)

"""Triton kernels of the step driver: all that a step computes between two products, in one launch.

Each element of the (B, H) states belongs to one lane, which alone reads, updates and writes it; so the running states
live in one float32 buffer that is updated in place. A launch writes each element once, and reads none that it wrote:
Triton may store a lane's value by another thread than the one that would load it again.

A cell's equations come in as generated device functions, its shape as constexpr tuples (CellShape in
codegen/constexpr.py). Sequences are (T, B, ...) and addressed by the step, so that only whole buffers are passed: a new
length or batch compiles nothing.
"""

import triton
import triton.language as tl

from gatefuse.kernels.triton.tile import as_mask, at_step, begin
from gatefuse.kernels.triton.tile_backward import add_where

# Sizes must not become part of a kernel's key: Triton would compile anew on 1 and on divisibility by 16.
RUNTIME = ("t", "t_fed", "fed_steps", "t_next", "t_before", "t_after", "T", "B", "H")


@triton.jit
def _lanes(B, H, BLOCK: tl.constexpr):
    """Element, sample and unit of this program's lanes, and which lanes are real."""
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return e, e // H, e % H, e < B * H


@triton.jit
def _blocks(ptr, e, size, real, N: tl.constexpr):
    """N values a lane, ``size`` apart, in float32."""
    values = ()
    for k in tl.static_range(N):
        values = values + (tl.load(ptr + k * size + e, mask=real, other=0.0).to(tl.float32),)
    return values


@triton.jit
def _flag(mask_ptr, t, b, B, real):
    """A (T, B) mask at step t, false where t is negative."""
    return tl.load(mask_ptr + at_step(t, B) + b, mask=as_mask(real & (t >= 0)), other=0) != 0


@triton.jit
def _slots(x_ptr, r_ptr, bias_ptr, t, b, u, real, B, H, CELL: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Each slot's part of x plus its product's result and bias."""
    slots = ()
    for k in tl.static_range(len(CELL.X)):
        value = tl.zeros(b.shape, tl.float32)
        if CELL.X[k] >= 0:
            at = at_step(t, B * CELL.G * H) + b * (CELL.G * H) + CELL.X[k] * H + u
            value += tl.load(x_ptr + at, mask=real, other=0.0).to(tl.float32)
        if CELL.R[k] >= 0:
            value += tl.load(r_ptr + b * (CELL.COLUMNS * H) + CELL.R[k] * H + u, mask=real, other=0.0).to(tl.float32)
            if HAS_BIAS:
                value += tl.load(bias_ptr + CELL.R[k] * H + u, mask=real, other=0.0).to(tl.float32)
        slots = slots + (value,)
    return slots


@triton.jit(do_not_specialize=RUNTIME)
def vectors_kernel(
    x_ptr, r_ptr, bias_ptr, carry_ptr, params_ptr, restarts_ptr, fresh_ptr, fed_ptr, t, t_fed, fed_steps, B, H,
    VECTORS: tl.constexpr, TARGETS: tl.constexpr, CELL: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESTARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the products of a stage multiply, where it is computed: fed[TARGETS[k], t_fed], (B, H) each."""
    S: tl.constexpr = CELL.S
    e, b, u, real = _lanes(B, H, BLOCK)
    slots = _slots(x_ptr, r_ptr, bias_ptr, t, b, u, real, B, H, CELL, HAS_BIAS)
    states = _blocks(carry_ptr, e, B * H, real, S)
    if HAS_RESTARTS:
        states = begin(fresh_ptr, states, _flag(restarts_ptr, t, b, B, real), e, B * H, real, CELL)
    vectors = VECTORS(slots, states, _blocks(params_ptr, u, H, real, CELL.P))
    for k in tl.static_range(len(TARGETS)):
        tl.store(fed_ptr + at_step(TARGETS[k] * fed_steps + t_fed, B * H) + e, vectors[k], mask=real)


@triton.jit(do_not_specialize=RUNTIME)
def update_kernel(
    x_ptr, r_ptr, bias_ptr, carry_ptr, params_ptr, restarts_ptr, fresh_ptr, live_ptr,
    output_ptr, rest_ptr, saved_ptr, begun_ptr, t, t_next, T, B, H,
    UPDATE: tl.constexpr, CELL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESTARTS: tl.constexpr,
    HAS_LIVE: tl.constexpr, KEEP: tl.constexpr, SAVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All gates and the new states of step t.

    Writes carry (S, B, H); output (T, B, H); with KEEP the other states' rest (S - 1, T, B, H); with SAVE, for the
    backward, what each slot with a product was, saved (slots, T, B, H); with restarts, what the products of states will
    multiply in the step to come, begun (products, B, H).
    """
    S: tl.constexpr = CELL.S
    e, b, u, real = _lanes(B, H, BLOCK)
    slots = _slots(x_ptr, r_ptr, bias_ptr, t, b, u, real, B, H, CELL, HAS_BIAS)
    if SAVE:
        for k in tl.static_range(len(CELL.SAVED)):
            if CELL.SAVED[k] >= 0:
                tl.store(saved_ptr + at_step(CELL.SAVED[k] * T + t, B * H) + e, slots[k], mask=real)

    before = _blocks(carry_ptr, e, B * H, real, S)
    states = before
    if HAS_RESTARTS:
        states = begin(fresh_ptr, states, _flag(restarts_ptr, t, b, B, real), e, B * H, real, CELL)
    new = UPDATE(slots, states, _blocks(params_ptr, u, H, real, CELL.P))
    if HAS_LIVE:
        alive = _flag(live_ptr, t, b, B, real)
    for k in tl.static_range(S):
        value = new[k]
        if HAS_LIVE:
            value = tl.where(alive, value, before[k])
        tl.store(carry_ptr + k * B * H + e, value, mask=real)
        if k == 0:
            tl.store(output_ptr + at_step(t, B * H) + e, value, mask=real)
        elif KEEP:
            tl.store(rest_ptr + at_step((k - 1) * T + t, B * H) + e, value, mask=real)
        if HAS_RESTARTS:
            restart = _flag(restarts_ptr, t_next, b, B, real)
            for p in tl.static_range(len(CELL.V)):
                if CELL.V[p] == k:
                    fresh = tl.load(fresh_ptr + k * B * H + e, mask=real & restart, other=0.0).to(tl.float32)
                    tl.store(begun_ptr + p * B * H + e, tl.where(restart, fresh, value), mask=real)


@triton.jit(do_not_specialize=RUNTIME)
def backward_kernel(
    x_ptr, saved_ptr, initial_ptr, output_ptr, rest_ptr, params_ptr, restarts_ptr, fresh_ptr, live_ptr,
    d_carry_ptr, d_output_ptr, d_rest_ptr, d_v_ptr, d_x_ptr, d_r_ptr, d_params_ptr, d_fresh_ptr,
    t, t_before, t_after, T, B, H,
    BACKWARD: tl.constexpr, EMITS: tl.constexpr, FIRST: tl.constexpr, FINAL: tl.constexpr, CELL: tl.constexpr,
    HAS_RESTARTS: tl.constexpr, HAS_LIVE: tl.constexpr, HAS_D_REST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One phase of the backward of step t: gradients of the slots EMITS, and of states and parameters if FINAL.

    d_carry (S, B, H) holds the gradients of the states after the step, complete from the FIRST phase on, and after the
    FINAL one those of the states before it, but for what comes through products; d_v (products, B, H) those of what the
    products multiplied; d_params (P, B, H) and d_fresh (S, B, H) sum over the steps.
    """
    e, b, u, real = _lanes(B, H, BLOCK)
    S: tl.constexpr = CELL.S
    slots = ()
    for k in tl.static_range(len(CELL.X)):
        if CELL.SAVED[k] >= 0:
            at = at_step(CELL.SAVED[k] * T + t, B * H) + e
            slots = slots + (tl.load(saved_ptr + at, mask=real, other=0.0).to(tl.float32),)
        else:
            at = at_step(t, B * CELL.G * H) + b * (CELL.G * H) + CELL.X[k] * H + u
            slots = slots + (tl.load(x_ptr + at, mask=real, other=0.0).to(tl.float32),)

    states = ()
    for k in tl.static_range(S):
        # The state before: the initial one, or that of the step run before.
        state = tl.load(initial_ptr + k * B * H + e, mask=as_mask(real & (t_before < 0)), other=0.0).to(tl.float32)
        if k == 0:
            here = output_ptr + at_step(t_before, B * H)
        else:
            here = rest_ptr + at_step((k - 1) * T + t_before, B * H)
        state += tl.load(here + e, mask=as_mask(real & (t_before >= 0)), other=0.0).to(tl.float32)
        states = states + (state,)

    d_states = _blocks(d_carry_ptr, e, B * H, real, S)
    after = e < 0
    if FIRST:
        if HAS_RESTARTS:
            after = _flag(restarts_ptr, t_after, b, B, real)
        summed = ()
        begun_after = ()
        for k in tl.static_range(S):
            d = d_states[k]
            begun = tl.zeros(e.shape, tl.float32)
            for p in tl.static_range(len(CELL.V)):
                if CELL.V[p] == k:  # the step after multiplied this state, or a fresh one
                    d_v = tl.load(d_v_ptr + p * B * H + e, mask=real, other=0.0).to(tl.float32)
                    begun += tl.where(after, d_v, 0.0)
                    d += tl.where(after, 0.0, d_v)
            if k == 0:
                d += tl.load(d_output_ptr + at_step(t, B * H) + e, mask=real, other=0.0).to(tl.float32)
            elif HAS_D_REST:
                d += tl.load(d_rest_ptr + at_step((k - 1) * T + t, B * H) + e, mask=real, other=0.0).to(tl.float32)
            if not FINAL:
                tl.store(d_carry_ptr + k * B * H + e, d, mask=real)
            summed = summed + (d,)
            begun_after = begun_after + (begun,)
        d_states = summed

    restart = tl.zeros(e.shape, tl.int1)
    if HAS_RESTARTS:
        restart = _flag(restarts_ptr, t, b, B, real)
        states = begin(fresh_ptr, states, restart, e, B * H, real, CELL)
    alive = real
    if HAS_LIVE:
        alive = _flag(live_ptr, t, b, B, real)
    d_vectors = _blocks(d_v_ptr, e, B * H, real, len(CELL.V))
    grads = BACKWARD(slots, states, _blocks(params_ptr, u, H, real, CELL.P), d_states, d_vectors)

    for k in tl.static_range(len(EMITS)):
        d = tl.where(alive, grads[k], 0.0)
        if CELL.X[EMITS[k]] >= 0:
            at = at_step(t, B * CELL.G * H) + b * (CELL.G * H) + CELL.X[EMITS[k]] * H + u
            tl.store(d_x_ptr + at, d, mask=real)
        if CELL.R[EMITS[k]] >= 0 and not CELL.ADDITIVE:
            at = at_step(t, B * CELL.COLUMNS * H) + b * (CELL.COLUMNS * H) + CELL.R[EMITS[k]] * H + u
            tl.store(d_r_ptr + at, d, mask=real)
    if HAS_RESTARTS and (FIRST or FINAL):
        for k in tl.static_range(S):
            d = tl.zeros(e.shape, tl.float32)
            if FIRST:
                d += begun_after[k]
            if FINAL:
                d += tl.where(alive & restart, grads[len(EMITS) + k], 0.0)
            add_where(d_fresh_ptr + k * B * H + e, d, real & (after | restart))
    if FINAL:
        for k in tl.static_range(S):
            d = grads[len(EMITS) + k] + tl.zeros(e.shape, tl.float32)
            tl.store(d_carry_ptr + k * B * H + e, tl.where(alive, tl.where(restart, 0.0, d), d_states[k]), mask=real)
        P: tl.constexpr = CELL.P
        for k in tl.static_range(P):
            add_where(d_params_ptr + k * B * H + e, tl.where(alive, grads[len(EMITS) + S + k], 0.0), real)

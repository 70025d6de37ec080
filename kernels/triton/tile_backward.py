"""Device functions of one step backward that the whole-sequence kernels share; names as in triton/tile.py."""

import triton
import triton.language as tl

from gatefuse.kernels.triton.tile import as_mask, at_step, begin


@triton.jit
def load_slots(x_ptr, saved_ptr, t, T, u, b, e, real, B, W: tl.constexpr, CELL: tl.constexpr):
    """The slots of step t: those with a product as the forward saved them, the others out of x."""
    slots = ()
    for j in tl.static_range(len(CELL.X)):
        if CELL.SAVED[j] >= 0:
            here = saved_ptr + at_step(CELL.SAVED[j] * T + t, B * W)
            if CELL.WEIGHED[CELL.SAVED[j]]:
                value = tl.load(here + e, mask=real, other=0.0)
            else:  # a reduction: unit 0 has what all have
                value = tl.load(here + b * W, mask=b < B, other=0.0)
        else:
            here = x_ptr + at_step(t, B * CELL.G * W)
            value = tl.load(here + (b * (CELL.G * W) + CELL.X[j] * W + u), mask=real, other=0.0)
        slots = slots + (value.to(tl.float32),)
    return slots


@triton.jit
def load_states(
    initial_ptr, output_ptr, rest_ptr, fresh_ptr, t_before, T, restart, e, real, B, W: tl.constexpr, CELL: tl.constexpr,
    HAS_RESTARTS: tl.constexpr,
):  # fmt: skip
    """The states that a step began with: those after the step run before it, else the initial ones."""
    S: tl.constexpr = CELL.S
    first = (t_before < 0) | (t_before >= T)
    states = ()
    for s in tl.static_range(S):
        here = initial_ptr + s * B * W
        state = tl.load(here + e, mask=as_mask(real & first), other=0.0).to(tl.float32)
        if s == 0:
            here = output_ptr + at_step(t_before, B * W)
        else:
            here = rest_ptr + at_step((s - 1) * T + t_before, B * W)
        state += tl.load(here + e, mask=as_mask(real & (first == 0)), other=0.0).to(tl.float32)
        states = states + (state,)
    if HAS_RESTARTS:
        states = begin(fresh_ptr, states, restart, e, B * W, real, CELL)
    return states


@triton.jit
def load_d_sequences(
    d_output_ptr, d_rest_ptr, t, T, e, real, B, W: tl.constexpr, CELL: tl.constexpr, HAS_D_REST: tl.constexpr
):
    """Gradients that reach the sequences at step t, of the first state, and with HAS_D_REST of all."""
    S: tl.constexpr = CELL.S
    d = tl.load(d_output_ptr + at_step(t, B * W) + e, mask=real, other=0.0)
    d_sequences = (d.to(tl.float32),)
    if HAS_D_REST:
        for s in tl.static_range(1, S):
            d = tl.load(d_rest_ptr + at_step((s - 1) * T + t, B * W) + e, mask=real, other=0.0)
            d_sequences = d_sequences + (d.to(tl.float32),)
    return d_sequences


@triton.jit
def add_d_sequences(d_carry, d_sequences, CELL: tl.constexpr):
    """Gradients of the states after a step: what comes from later steps, and what reaches the sequences there."""
    S: tl.constexpr = CELL.S
    d_states = ()
    for s in tl.static_range(S):
        d = d_carry[s]
        if s < len(d_sequences):
            d += d_sequences[s]
        d_states = d_states + (d,)
    return d_states


@triton.jit
def store_d_slots(
    d_x_ptr, d_r_ptr, grads, alive, t, u, b, real, B, phase: tl.constexpr, W: tl.constexpr, CELL: tl.constexpr
):
    """Store the gradients of a phase's slots: of x by gate, and of the products by column unless they are the same."""
    for j in tl.static_range(len(CELL.EMITS[phase])):
        d = tl.where(alive, grads[j], 0.0)
        if CELL.X[CELL.EMITS[phase][j]] >= 0:
            here = d_x_ptr + at_step(t, B * CELL.G * W)
            tl.store(here + (b * (CELL.G * W) + CELL.X[CELL.EMITS[phase][j]] * W + u), d, mask=real)
        if CELL.R[CELL.EMITS[phase][j]] >= 0 and not CELL.ADDITIVE:
            here = d_r_ptr + at_step(t, B * CELL.COLUMNS * W)
            tl.store(here + (b * (CELL.COLUMNS * W) + CELL.R[CELL.EMITS[phase][j]] * W + u), d, mask=real)


@triton.jit
def add_where(ptr, value, where):
    """Add to what lies there. Triton may load an element by one thread and store it by another: between two such
    additions to the same elements all threads of the program must meet."""
    tl.store(ptr, tl.load(ptr, mask=where, other=0.0) + value, mask=where)


@triton.jit
def begun_gradients(grads, d_vectors, real, CELL: tl.constexpr):
    """Gradients of the states that a step began with: the last phase's, and what the products of states bring, where
    d_vectors holds them already."""
    S: tl.constexpr = CELL.S
    E: tl.constexpr = len(CELL.EMITS[len(CELL.PHASES) - 1])
    d_begun = ()
    for s in tl.static_range(S):
        d = grads[E + s] + tl.zeros(real.shape, tl.float32)
        for p in tl.static_range(len(d_vectors)):
            if CELL.V[p] == s:
                d += d_vectors[p]
        d_begun = d_begun + (d,)
    return d_begun


@triton.jit
def carry_back(d_begun, d_states, restart, alive, CELL: tl.constexpr):
    """Gradients of the states before a step: none where it began anew, and those after it where the sample is over."""
    S: tl.constexpr = CELL.S
    carried = ()
    for s in tl.static_range(S):
        carried = carried + (tl.where(alive, tl.where(restart, 0.0, d_begun[s]), d_states[s]),)
    return carried


@triton.jit
def carry_products(
    carried, d_vectors, d_fresh_ptr, restart, e, size, real, CELL: tl.constexpr, HAS_RESTARTS: tl.constexpr
):
    """carry_back's, with what a step's products of states bring, one a state at most; beyond a sample's end that is
    zero."""
    S: tl.constexpr = CELL.S
    summed = ()
    for s in tl.static_range(S):
        d = carried[s]
        for p in tl.static_range(len(CELL.V)):
            if CELL.V[p] == s:
                if HAS_RESTARTS:
                    add_where(d_fresh_ptr + s * size + e, d_vectors[p], real & restart)
                d += tl.where(restart, 0.0, d_vectors[p])
        summed = summed + (d,)
    return summed


@triton.jit
def sum_d_fresh(d_fresh, d_begun, there, CELL: tl.constexpr):
    """The fresh states' gradients with this step's added, where ``there``."""
    S: tl.constexpr = CELL.S
    summed = ()
    for s in tl.static_range(S):
        summed = summed + (d_fresh[s] + tl.where(there, d_begun[s], 0.0),)
    return summed


@triton.jit
def sum_d_params(d_params, grads, there, CELL: tl.constexpr):
    """The parameters' gradients with this step's added, where ``there``."""
    E: tl.constexpr = len(CELL.EMITS[len(CELL.PHASES) - 1]) + CELL.S
    P: tl.constexpr = CELL.P
    summed = ()
    for p in tl.static_range(P):
        summed = summed + (d_params[p] + tl.where(there, grads[E + p], 0.0),)
    return summed

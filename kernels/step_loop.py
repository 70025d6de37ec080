"""The step driver's time loop: one product a stage, one fused kernel; backward likewise. Shapes as in sequence.py."""

from __future__ import annotations

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen import computed, device_functions
from gatefuse.kernels.launch import launch
from gatefuse.kernels.ops import buffer_shapes, computed_products
from gatefuse.kernels.sequence import Forward, Gradients, Sequence, weight_gradients
from gatefuse.kernels.step_kernels import backward_kernel, update_kernel, vectors_kernel

_BLOCK = 256  # lanes of a program


def _grid(sequence: Sequence) -> tuple[int]:
    return (-(-sequence.B * sequence.H // _BLOCK),)


def forward(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, live: Tensor | None, reverse: bool, save: bool, all_states: bool,
) -> Forward:  # fmt: skip
    """Run the steps; with save, keep what the backward needs."""
    loop = Sequence.of(cell, x, states, reverse)
    functions, shape, program = device_functions(cell), loop.shape, loop.program
    T, B, H = loop.T, loop.B, loop.H
    rest_shape, saved_shape, fed_shape = buffer_shapes(cell, T, B, H, save, all_states)
    output, rest, saved = x.new_empty(T, B, H), x.new_empty(rest_shape), x.new_empty(saved_shape)
    fed, r = x.new_empty(fed_shape), x.new_empty(B, shape.COLUMNS * H)
    carry = states.to(torch.float32, copy=True)
    if B * H == 0 or T == 0:
        return Forward(output, rest, carry.to(x.dtype), saved, fed)

    weights = [w.t() for w in loop.weights(weight)]
    r_bias = loop.bias(bias)
    keep = rest_shape[0] > 0
    block = {k: i for i, k in enumerate(computed_products(cell))}
    # With restarts, what the products of states multiply in the step to come.
    begun = x.new_empty(len(program.products) if restarts is not None else 0, B, H)
    sequences = [output, *rest.unbind(0)]
    flags = {"HAS_BIAS": r_bias is not None, "HAS_RESTARTS": restarts is not None, "BLOCK": _BLOCK}
    shared = x, r, r_bias, carry, parameters, restarts
    for t, before, after in loop.steps():
        t_fed = t if save else 0
        if before < 0 and restarts is not None:
            for k, p in enumerate(program.products):
                if p.state >= 0:
                    begun[k] = torch.where(restarts[t].unsqueeze(1), cell.init[p.state], states[p.state])
        for stage in range(1, program.stages + 1):
            if vectors := functions.vectors[stage - 1]:
                launch(
                    vectors_kernel, _grid(loop), *shared, fed, t, t_fed, fed_shape[1], B, H,
                    VECTORS=vectors, TARGETS=tuple(block[k] for k in computed(program, stage)), CELL=shape, **flags,
                )  # fmt: skip
            for k in program.stage_products(stage):
                state = program.products[k].state
                if k in block:
                    vector = fed[block[k], t_fed]
                elif restarts is not None:
                    vector = begun[k]
                else:
                    vector = states[state] if before < 0 else sequences[state][before]
                torch.mm(vector, weights[k], out=loop.columns(r, k))
        launch(
            update_kernel, _grid(loop), *shared, live, output, rest, saved, begun, t, after, T, B, H,
            UPDATE=functions.update, CELL=shape, HAS_LIVE=live is not None, KEEP=keep, SAVE=save, **flags,
        )  # fmt: skip
    return Forward(output, rest, carry.to(x.dtype), saved, fed)


def backward(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, live: Tensor | None, reverse: bool, kept: Forward,
    d_output: Tensor, d_rest: Tensor | None, d_finals: Tensor,
) -> Gradients:  # fmt: skip
    """Run the steps backward, then the products over all steps; ``kept`` is what forward returned with save."""
    loop = Sequence.of(cell, x, states, reverse)
    functions, shape, program = device_functions(cell), loop.shape, loop.program
    T, B, H = loop.T, loop.B, loop.H
    d_x, d_r = loop.gate_gradients(x)
    d_carry = d_finals.to(torch.float32, copy=True)
    d_v = x.new_zeros(len(program.products), B, H)
    d_params = torch.zeros(shape.P, B, H, dtype=torch.float32, device=x.device)

    weights = loop.weights(weight)
    steps = loop.steps() if B * H else []
    for t, before, after in reversed(steps):
        for phase, function in zip(program.phases, functions.backward, strict=True):
            launch(
                backward_kernel, _grid(loop), x, kept.saved, states, kept.output, kept.rest, parameters, restarts, live,
                d_carry, d_output, d_rest, d_v, d_x, d_r, d_params, t, before, after, T, B, H,
                BACKWARD=function, EMITS=phase.slots, FINAL=phase.final, CELL=shape,
                HAS_RESTARTS=restarts is not None, HAS_LIVE=live is not None, HAS_D_REST=d_rest is not None,
                BLOCK=_BLOCK,
            )  # fmt: skip
            for k in program.stage_products(phase.stage):
                torch.mm(loop.columns(d_r[t], k), weights[k], out=d_v[k])

    if steps:
        first = steps[0][0]
        for k, p in enumerate(program.products):
            if p.state >= 0:
                d = d_v[k].float()
                d_carry[p.state] += d if restarts is None else torch.where(restarts[first].unsqueeze(1), 0.0, d)
    d_weight, d_bias = weight_gradients(loop, states, weight, bias, restarts, kept, d_r)
    return Gradients(d_x, d_carry.to(x.dtype), d_weight, d_bias, d_params.sum(1).to(x.dtype))

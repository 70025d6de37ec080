"""The launches of the step driver: a step is one product a stage and one fused kernel; backward likewise.

Shapes as in loops/inputs.py, but that a sequence's first states may be float32, so that a sequence can go on where
another ended.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatefuse.kernels.codegen.device_functions import device_functions
from gatefuse.kernels.equations.program import computed, computed_products
from gatefuse.kernels.loops.buffers import Backward, Forward, Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.reductions import d_of_largest, of_units
from gatefuse.kernels.runtime.launcher import launch
from gatefuse.kernels.triton.step import backward_kernel, update_kernel, vectors_kernel

_BLOCK = 256  # lanes of a program


def _grid(loop: Sequence) -> tuple[int]:
    return (-(-loop.B * loop.H // _BLOCK),)


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run the steps; with save, keep what the backward needs. Finals are float32."""
    functions, shape, program, x = device_functions(loop.cell, loop.H), loop.shape, loop.program, loop.x
    T, B, H = loop.T, loop.B, loop.H
    kept = loop.buffers(save, all_states)
    output, rest, carry, saved, fed = kept
    if B * H == 0 or T == 0:
        return kept

    states = loop.states.to(x.dtype)
    r = x.new_empty(B, shape.COLUMNS * H)
    weights = [w.t() for w in loop.weights()]
    r_bias = loop.columns_bias()
    block = {k: i for i, k in enumerate(computed_products(loop.cell))}
    # With restarts, what the products of states multiply in the step to come.
    begun = _begun(loop)
    sequences = [output, *rest.unbind(0)]
    flags = {"HAS_BIAS": r_bias is not None, "HAS_RESTARTS": loop.restarts is not None, "BLOCK": _BLOCK}
    shared = x, r, r_bias, carry, loop.parameters, loop.restarts, loop.fresh
    for t, before, after in loop.steps():
        t_fed = t if save else 0
        for stage in range(1, program.stages + 1):
            if vectors := functions.vectors[stage - 1]:
                launch(
                    vectors_kernel, _grid(loop), *shared, fed, t, t_fed, fed.shape[1], B, H,
                    VECTORS=vectors, TARGETS=tuple(block[k] for k in computed(program, stage)), CELL=shape, **flags,
                )  # fmt: skip
            for k in program.stage_products(stage):
                state = program.products[k].state
                if k in block:
                    vector = fed[block[k], t_fed]
                elif loop.restarts is not None:
                    vector = begun[k]
                else:
                    vector = states[state] if before < 0 else sequences[state][before]
                if shape.REDUCES[k]:
                    loop.columns(r, k).copy_(of_units(shape.REDUCES[k], vector))
                else:
                    torch.mm(vector, weights[k], out=loop.columns(r, k))
        launch(
            update_kernel, _grid(loop), *shared, loop.live, output, rest, saved, begun, t, after, T, B, H,
            UPDATE=functions.update, CELL=shape, HAS_LIVE=loop.live is not None, KEEP=rest.shape[0] > 0, SAVE=save,
            **flags,
        )  # fmt: skip
    return kept


def _begun(loop: Sequence) -> Tensor:
    """What each product of a state multiplies in the first step, (products, B, H); empty without restarts."""
    products = loop.program.products
    if loop.restarts is None or loop.fresh is None:
        return loop.x.new_empty(0, loop.B, loop.H)
    t, *_ = next(loop.steps())
    begun = torch.where(loop.restarts[t].unsqueeze(1), loop.fresh, loop.states.to(loop.x.dtype))
    return torch.stack([begun[p.state] for p in products]) if products else begun[:0]


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Backward:
    """Run the steps backward; ``kept`` is what forward returned with save. Gradients of the finals may be float32."""
    functions, shape, program, x = device_functions(loop.cell, loop.H), loop.shape, loop.program, loop.x
    T, B, H = loop.T, loop.B, loop.H
    d = loop.gradients(upstream.finals)
    d_v = x.new_zeros(len(program.products), B, H)

    weights = loop.weights()
    steps = list(loop.steps()) if B * H else []
    for t, before, after in reversed(steps):
        for phase, function in zip(program.phases, functions.backward, strict=True):
            launch(
                backward_kernel, _grid(loop), x, kept.saved, loop.states, kept.output, kept.rest, loop.parameters,
                loop.restarts, loop.fresh, loop.live, d.states, upstream.output, upstream.rest, d_v, d.x, d.r,
                d.parameters, d.fresh, t, before, after, T, B, H,
                BACKWARD=function, EMITS=phase.slots, FIRST=phase is program.phases[0], FINAL=phase.final, CELL=shape,
                HAS_RESTARTS=loop.restarts is not None, HAS_LIVE=loop.live is not None,
                HAS_D_REST=upstream.rest is not None, BLOCK=_BLOCK,
            )  # fmt: skip
            for k in program.stage_products(phase.stage):
                rows = loop.columns(d.r[t], k)
                if shape.REDUCES[k] == "amax":
                    d_v[k].copy_(d_of_largest(rows, kept.fed[shape.FED[k], t], kept.saved[shape.FIRST[k], t]))
                elif shape.REDUCES[k]:
                    d_v[k].copy_(rows.mean(1, keepdim=True))
                else:
                    torch.mm(rows, weights[k], out=d_v[k])

    if steps:
        first = steps[0][0]
        for k, p in enumerate(program.products):
            if not p.computed:
                _end(d, p.state, d_v[k].float(), None if loop.restarts is None else loop.restarts[first].unsqueeze(1))
    return d


def _end(d: Backward, state: int, d_vector: Tensor, restart: Tensor | None) -> None:
    """What the first step's product multiplied was the state before the sequence, or a fresh one."""
    if restart is None or d.fresh is None:
        d.states[state] += d_vector
    else:
        d.states[state] += torch.where(restart, 0.0, d_vector)
        d.fresh[state] += torch.where(restart, d_vector, 0.0)

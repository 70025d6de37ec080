"""The launches of the step driver: a step is one product a stage and one fused kernel; backward likewise.

Shapes as in loops/inputs.py, but that a sequence's first states may be float32, so that a sequence can go on where
another ended.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.codegen.device_functions import device_functions
from gatefuse.kernels.codegen.per_cell import per_call
from gatefuse.kernels.equations.program import computed, computed_products
from gatefuse.kernels.loops.buffers import Backward, Forward, Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.reductions import d_of_largest, of_units
from gatefuse.kernels.runtime.launcher import launch
from gatefuse.kernels.triton.step import backward_kernel, update_kernel, vectors_kernel

_BLOCK = 256  # lanes of a program


class _Part(NamedTuple):
    """Of a step a stage, or backward a phase: constants of its kernel, where it has one, and products that follow."""

    options: dict[str, Any]
    products: tuple[int, ...]


class _Launches(NamedTuple):
    """What is the same for all steps of a pass at some sizes: programs; parts; constants of the update; by product, the
    block of fed that it multiplies, -1 for a state."""

    grid: tuple[int]
    parts: tuple[_Part, ...]
    update: dict[str, Any]
    fed: tuple[int, ...]


def _launches_of(loop: Sequence, way: str, *flags: bool) -> _Launches:
    """Found once; flags are forward whether there is a bias and other states are kept, and a backward is to come, and
    backward whether the other states have gradients."""
    masks = loop.restarts is not None, loop.live is not None
    return _made(loop.cell.current(), way, loop.B, loop.H, *masks, *flags)


@per_call
def _made(cell: Cell, way: str, B: int, H: int, restarts: bool, live: bool, *flags: bool) -> _Launches:
    functions, shape, program = device_functions(cell, H), cell_shape(cell), cell.program
    fed, grid = computed_products(cell), (-(-B * H // _BLOCK),)
    of_fed = tuple([fed.index(k) if k in fed else -1 for k in range(len(program.products))])
    shared = {"CELL": shape, "HAS_RESTARTS": restarts, "BLOCK": _BLOCK}
    if way == "backward":
        shared |= {"HAS_LIVE": live, "HAS_D_REST": flags[0]}
        phases = zip(program.phases, functions.backward, strict=True)
        parts = [
            _Part(
                {"BACKWARD": function, "EMITS": p.slots, "FIRST": p is program.phases[0], "FINAL": p.final, **shared},
                tuple(program.stage_products(p.stage)),
            )
            for p, function in phases
        ]
        return _Launches(grid, tuple(parts), {}, of_fed)
    bias, keep, save = flags
    shared["HAS_BIAS"] = bias
    parts = []
    for stage in range(1, program.stages + 1):
        vectors, targets = functions.vectors[stage - 1], tuple([of_fed[k] for k in computed(program, stage)])
        options = {"VECTORS": vectors, "TARGETS": targets, **shared} if vectors else {}
        parts.append(_Part(options, tuple(program.stage_products(stage))))
    update = {"UPDATE": functions.update, "HAS_LIVE": live, "KEEP": keep, "SAVE": save, **shared}
    return _Launches(grid, tuple(parts), update, of_fed)


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run the steps; with save, keep what the backward needs. Finals are float32."""
    shape, products, x, T, B, H = loop.shape, loop.program.products, loop.x, loop.T, loop.B, loop.H
    kept = loop.buffers(save, all_states)
    output, rest, carry, saved, fed = kept
    if B * H == 0 or T == 0:
        return kept

    states = loop.states if loop.states.dtype == x.dtype else loop.states.to(x.dtype)
    r = x.new_empty(B, shape.COLUMNS * H)
    weights, pieces = [w.t() for w in loop.weights()], [loop.columns(r, k) for k in range(len(products))]
    r_bias = loop.columns_bias()
    found = _launches_of(loop, "forward", r_bias is not None, rest.shape[0] > 0, save)
    # With restarts, what the products of states multiply in the step to come.
    begun = None if loop.restarts is None or loop.fresh is None else _begun(loop, loop.restarts, loop.fresh)
    sequences = [each.unbind(0) for each in (output, *rest.unbind(0))]
    shared = x, r, r_bias, carry, loop.parameters, loop.restarts, loop.fresh
    for t, before, after in loop.steps():
        t_fed = t if save else 0
        for part in found.parts:
            if part.options:
                launch(vectors_kernel, found.grid, *shared, fed, t, t_fed, fed.shape[1], B, H, **part.options)
            for k in part.products:
                state = products[k].state
                if found.fed[k] >= 0:
                    vector = fed[found.fed[k], t_fed]
                elif begun is not None:
                    vector = begun[k]
                else:
                    vector = states[state] if before < 0 else sequences[state][before]
                if shape.REDUCES[k]:
                    pieces[k].copy_(of_units(shape.REDUCES[k], vector))
                else:
                    torch.mm(vector, weights[k], out=pieces[k])
        launch(
            update_kernel, found.grid, *shared, loop.live, output, rest, saved, begun, t, after, T, B, H,
            **found.update,
        )  # fmt: skip
    return kept


def _begun(loop: Sequence, restarts: Tensor, fresh: Tensor) -> Tensor:
    """What each product of a state multiplies in the first step, (products, B, H)."""
    products, (t, *_) = loop.program.products, loop.steps()[0]
    begun = torch.where(restarts[t].unsqueeze(1), fresh, loop.states.to(loop.x.dtype))
    return torch.stack([begun[p.state] for p in products]) if products else begun[:0]


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Backward:
    """Run the steps backward; ``kept`` is what forward returned with save. Gradients of the finals may be float32."""
    shape, products, x, T, B, H = loop.shape, loop.program.products, loop.x, loop.T, loop.B, loop.H
    d = loop.gradients(upstream.finals)
    d_v = x.new_zeros(len(products), B, H)

    weights = loop.weights()
    found = _launches_of(loop, "backward", upstream.rest is not None)
    steps = loop.steps() if B * H else []
    d_vectors, rows = d_v.unbind(0), [loop.columns(d.r, k).unbind(0) for k in range(len(products))]
    for t, before, after in reversed(steps):
        for part in found.parts:
            launch(
                backward_kernel, found.grid, x, kept.saved, loop.states, kept.output, kept.rest, loop.parameters,
                loop.restarts, loop.fresh, loop.live, d.states, upstream.output, upstream.rest, d_v, d.x, d.r,
                d.parameters, d.fresh, t, before, after, T, B, H, **part.options,
            )  # fmt: skip
            for k in part.products:
                if shape.REDUCES[k] == "amax":
                    vector, largest = kept.fed[shape.FED[k], t], kept.saved[shape.FIRST[k], t]
                    d_vectors[k].copy_(d_of_largest(rows[k][t], vector, largest))
                elif shape.REDUCES[k]:
                    d_vectors[k].copy_(rows[k][t].mean(1, keepdim=True))
                else:
                    torch.mm(rows[k][t], weights[k], out=d_vectors[k])

    if steps:
        first = steps[0][0]
        for k, p in enumerate(products):
            if not p.computed:
                _end(d, p.state, d_vectors[k], None if loop.restarts is None else loop.restarts[first].unsqueeze(1))
    return d


def _end(d: Backward, state: int, d_vector: Tensor, restart: Tensor | None) -> None:
    """What the first step's product multiplied was the state before the sequence, or a fresh one."""
    if restart is None or d.fresh is None:
        d.states[state].add_(d_vector)
    else:
        d.states[state].add_(torch.where(restart, 0.0, d_vector))
        d.fresh[state].add_(torch.where(restart, d_vector, 0.0))

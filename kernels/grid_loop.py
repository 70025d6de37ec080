"""The grid driver's launches: resident programs that share the recurrent weights among them. Shapes as in sequence.py.

A batch larger than the programs that are resident at once runs in launches one after another. Under Triton's
interpreter, which runs programs one after another, a launch's end is the barrier: a step, and a stage of it, at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver

from gatefuse.kernels.block_loop import columns_weight, precision
from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen import computed, device_functions
from gatefuse.kernels.drivers.fused import interpreted
from gatefuse.kernels.grid_backward_kernels import grid_backward_kernel
from gatefuse.kernels.grid_kernels import grid_forward_kernel
from gatefuse.kernels.launch import launch
from gatefuse.kernels.limits import limits
from gatefuse.kernels.ops import buffer_shapes
from gatefuse.kernels.sequence import Forward, Gradients, Sequence, weight_gradients
from gatefuse.kernels.tiles import GridTiles, grid_tiles


def _launches(loop: Sequence, cut: GridTiles, device: torch.device, parts: list[int]) -> Iterator[dict[str, Any]]:
    """Grid, first sample, first step, steps, barrier and UNTIL of each launch.

    Args:
        parts: what UNTIL must be in turn where a launch's end is the barrier.
    """
    units, tiles = -(-loop.H // cut.BU), -(-loop.B // cut.BB)
    if interpreted():
        for i in range(loop.T):
            for until in parts:
                yield {"grid": (units, tiles), "b0": 0, "i0": i, "steps": 1, "FORM": "launch", "UNTIL": until}
        return
    resident = max(1, limits(device).programs // units)
    form = "ptx" if driver.active.get_current_target().backend == "cuda" else "portable"
    for first in range(0, tiles, resident):
        grid = units, min(resident, tiles - first)
        yield {"grid": grid, "b0": first * cut.BB, "i0": 0, "steps": loop.T, "FORM": form, "UNTIL": 0}


def _constants(cut: GridTiles) -> dict[str, Any]:
    # A cooperative launch fails where not all programs can be resident; any other would hang.
    cooperative = {} if interpreted() else {"launch_cooperative_grid": True}
    return {"BU": cut.BU, "KC": cut.KC, "BB": cut.BB, "num_warps": cut.warps, **cooperative}


def _counters(x: Tensor, cut: GridTiles) -> Tensor:
    return torch.zeros(-(-x.shape[1] // cut.BB), dtype=torch.int32, device=x.device)


def forward(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, live: Tensor | None, reverse: bool, save: bool, all_states: bool,
) -> Forward:  # fmt: skip
    """Run all steps; with save, keep what the backward needs."""
    loop = Sequence.of(cell, x, states, reverse)
    T, B, H = loop.T, loop.B, loop.H
    rest_shape, saved_shape, fed_shape = buffer_shapes(cell, T, B, H, save, all_states)
    output, rest, saved = x.new_empty(T, B, H), x.new_empty(rest_shape), x.new_empty(saved_shape)
    # What programs exchange has a fresh address each step, also where no backward wants it.
    exchanged = x.new_empty(fed_shape[0], T, B, H)
    carry = states.to(torch.float32, copy=True)
    if T * B * H:
        functions, cut = device_functions(cell), grid_tiles(H, B)
        r_bias, weights = loop.bias(bias), columns_weight(loop, weight)
        computing = [stage for stage in range(1, loop.program.stages + 1) if computed(loop.program, stage)]
        for run in _launches(loop, cut, x.device, [*computing, 0]):
            launch(
                grid_forward_kernel, run["grid"], x, weights, r_bias, states, parameters, restarts, live,
                output, rest, saved, exchanged, carry, _counters(x, cut), run["b0"], run["i0"], run["steps"], T, B, H,
                UPDATE=functions.update, VECTORS=functions.any_vectors, CELL=loop.shape, REVERSE=reverse,
                HAS_BIAS=r_bias is not None, HAS_RESTARTS=restarts is not None, HAS_LIVE=live is not None,
                KEEP=rest_shape[0] > 0, SAVE=save, PRECISION=precision(x.dtype), FORM=run["FORM"], UNTIL=run["UNTIL"],
                **_constants(cut),
            )  # fmt: skip
    fed = exchanged if save else x.new_empty(fed_shape)
    return Forward(output, rest, carry.to(x.dtype), saved, fed)


def backward(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, live: Tensor | None, reverse: bool, kept: Forward,
    d_output: Tensor, d_rest: Tensor | None, d_finals: Tensor,
) -> Gradients:  # fmt: skip
    """Run all steps backward, then the products over all steps; ``kept`` is what a forward returned with save."""
    loop = Sequence.of(cell, x, states, reverse)
    T, B, H, shape = loop.T, loop.B, loop.H, loop.shape
    d_x, d_r = loop.gate_gradients(x)
    d_carry = d_finals.to(torch.float32, copy=True)
    d_params = torch.zeros(shape.P, B, H, dtype=torch.float32, device=x.device)
    if T * B * H:
        functions, cut = device_functions(cell), grid_tiles(H, B, backward=True)
        weights = columns_weight(loop, weight)
        phases = [k + 1 for k, stage in enumerate(shape.PHASES) if stage > 0]
        for run in _launches(loop, cut, x.device, [*phases, 0]):
            launch(
                grid_backward_kernel, run["grid"], x, kept.saved, weights, states, parameters, restarts, live,
                kept.output, kept.rest, d_output, d_rest, d_carry, d_x, d_r, d_params, _counters(x, cut),
                run["b0"], run["i0"], run["steps"], T, B, H,
                BACKWARD=functions.any_backward, CELL=shape, REVERSE=reverse, HAS_RESTARTS=restarts is not None,
                HAS_LIVE=live is not None, HAS_D_REST=d_rest is not None, PRECISION=precision(x.dtype),
                FORM=run["FORM"], UNTIL=run["UNTIL"], num_stages=1, **_constants(cut),
            )  # fmt: skip
    d_weight, d_bias = weight_gradients(loop, states, weight, bias, restarts, kept, d_r)
    return Gradients(d_x, d_carry.to(x.dtype), d_weight, d_bias, d_params.sum(1).to(x.dtype))

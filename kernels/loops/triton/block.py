"""The block driver's launches: one kernel for all steps of a tile of the batch. Shapes as in loops/inputs.py."""

from __future__ import annotations

from typing import Any, NamedTuple

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.per_cell import per_call
from gatefuse.kernels.loops.buffers import Forward, Gradients, Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.triton.constants import Call, call_of, constants
from gatefuse.kernels.loops.weight_gradients import finish
from gatefuse.kernels.runtime.launcher import launch
from gatefuse.kernels.tiling import overrides
from gatefuse.kernels.tiling.tiles import block_tiles
from gatefuse.kernels.triton.block_backward import block_backward_kernel
from gatefuse.kernels.triton.block_forward import block_forward_kernel


class _Launch(NamedTuple):
    """What is the same for all launches of a pass: tiles of the batch by directions; constants of the kernel, and
    Triton's."""

    grid: tuple[int, int]
    options: dict[str, Any]


_CONSTANTS: dict[str, dict[str, Any]]
_CONSTANTS = {"forward": {"ROWS": "units"}, "backward": {"AHEAD": False, "RELAID": True, "num_stages": 1}}


def _launch_of(loop: Sequence, way: str, *flags: bool) -> _Launch:
    """Found once for all that it depends on, but where something is tried."""
    find = _made if overrides.nothing() else _made.__wrapped__  # type: ignore[attr-defined]
    return find(loop.cell.current(), way, loop.B, loop.directions, call_of(loop, *flags))


@per_call
def _made(cell: Cell, way: str, B: int, directions: int, call: Call) -> _Launch:
    HP, BB, warps = block_tiles(call[0], way, cell.program)
    options = {
        **constants(cell, way, call), "HP": HP, "BB": BB, "num_warps": warps, **_CONSTANTS[way],
        **overrides.options("block", way),
    }  # fmt: skip
    return _Launch((-(-B // BB), directions), options)


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run all steps; with save, keep what the backward needs."""
    T, B, H, W = loop.T, loop.B, loop.H, loop.W
    kept = loop.buffers(save, all_states)
    if T * B * H:
        bias = loop.columns_bias()
        found = _launch_of(loop, "forward", bias is not None, kept.rest.shape[0] > 0, save)
        launch(
            block_forward_kernel, found.grid, loop.x, loop.columns_weight, bias, loop.parameters,
            loop.restarts, loop.fresh, loop.live, *kept, kept.fed.shape[1], T, B, H, W, **found.options,
        )  # fmt: skip
    return kept.result()


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Gradients:
    """Run all steps backward, then the products over all steps; ``kept`` is what a forward returned with save."""
    T, B, H, W = loop.T, loop.B, loop.H, loop.W
    d = loop.gradients(upstream.finals)
    if T * B * H:
        found = _launch_of(loop, "backward", upstream.rest is not None)
        launch(
            block_backward_kernel, found.grid, loop.x, kept.saved, loop.columns_weight, loop.states,
            loop.parameters, loop.restarts, loop.fresh, loop.live, kept.output, kept.rest,
            kept.fed if loop.shape.TIES else None, upstream.output, upstream.rest, *d, T, B, H, W, **found.options,
        )  # fmt: skip
    return finish(loop, kept, d)

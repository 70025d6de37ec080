"""The block driver's launches: one kernel for all steps of a tile of the batch. Shapes as in loops/inputs.py."""

from __future__ import annotations

from typing import Any

from gatefuse.kernels.codegen.device_functions import device_functions
from gatefuse.kernels.loops.buffers import Forward, Gradients, Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.weight_gradients import finish
from gatefuse.kernels.runtime.launcher import launch
from gatefuse.kernels.runtime.settings import precision
from gatefuse.kernels.tiling import overrides
from gatefuse.kernels.tiling.tiles import block_tiles
from gatefuse.kernels.triton.block_backward import block_backward_kernel
from gatefuse.kernels.triton.block_forward import block_forward_kernel


def _options(way: str, **constants: Any) -> dict[str, Any]:
    """What may be tried of how a kernel is compiled; see tiling/overrides.py."""
    return {**constants, **overrides.options("block", way)}


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run all steps; with save, keep what the backward needs."""
    T, B, H, x = loop.T, loop.B, loop.H, loop.x
    kept = loop.buffers(save, all_states)
    if T * B * H:
        functions, (HP, BB, warps) = device_functions(loop.cell, loop.H), block_tiles(H, "forward", loop.program)
        bias = loop.columns_bias()
        launch(
            block_forward_kernel, (-(-B // BB), loop.directions), x, loop.columns_weight(), bias, loop.parameters,
            loop.restarts, loop.fresh, loop.live, *kept, kept.fed.shape[1], T, B, H, loop.W,
            UPDATE=functions.update, VECTORS=functions.any_vectors, CELL=loop.shape, ORDER=loop.order,
            HAS_BIAS=bias is not None, HAS_RESTARTS=loop.restarts is not None, HAS_LIVE=loop.live is not None,
            KEEP=kept.rest.shape[0] > 0, SAVE=save, PRECISION=precision(x.dtype), HP=HP, BB=BB,
            **_options("forward", ROWS="units", num_warps=warps),
        )  # fmt: skip
    return kept.result()


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Gradients:
    """Run all steps backward, then the products over all steps; ``kept`` is what a forward returned with save."""
    T, B, H, x = loop.T, loop.B, loop.H, loop.x
    d = loop.gradients(upstream.finals)
    if T * B * H:
        functions, (HP, BB, warps) = device_functions(loop.cell, loop.H), block_tiles(H, "backward", loop.program)
        launch(
            block_backward_kernel, (-(-B // BB), loop.directions), x, kept.saved, loop.columns_weight(), loop.states,
            loop.parameters, loop.restarts, loop.fresh, loop.live, kept.output, kept.rest,
            kept.fed if loop.shape.TIES else None, upstream.output, upstream.rest, *d, T, B, H, loop.W,
            BACKWARD=functions.any_backward, CELL=loop.shape, ORDER=loop.order,
            HAS_RESTARTS=loop.restarts is not None, HAS_LIVE=loop.live is not None,
            HAS_D_REST=upstream.rest is not None, PRECISION=precision(x.dtype),
            HP=HP, BB=BB, **_options("backward", AHEAD=False, RELAID=True, num_warps=warps, num_stages=1),
        )  # fmt: skip
    return finish(loop, kept, d)

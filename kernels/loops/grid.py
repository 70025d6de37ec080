"""The grid driver's launches: resident programs that share the recurrent weights. Shapes as in loops/inputs.py.

Under Triton's interpreter, which runs programs one after another, a launch's end is the barrier: a step, and a part of
it, at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from triton.runtime import driver

from gatefuse.kernels.codegen.device_functions import device_functions
from gatefuse.kernels.equations.program import computed
from gatefuse.kernels.loops.buffers import Forward, Gradients, Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.weight_gradients import finish
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.runtime.device import limits
from gatefuse.kernels.runtime.launcher import launch
from gatefuse.kernels.runtime.settings import interpreted, precision
from gatefuse.kernels.tiling import overrides
from gatefuse.kernels.tiling.tiles import GridBackwardTiles, GridTiles, grid_backward_tiles, grid_tiles
from gatefuse.kernels.triton.grid_backward import grid_backward_kernel
from gatefuse.kernels.triton.grid_forward import grid_forward_kernel


def _grid(loop: Sequence, cut: GridTiles | GridBackwardTiles) -> tuple[tuple[int, int, int], int]:
    """Programs by units, tiles and directions, all of which must be resident, and tiles of the batch."""
    tiles, D = -(-loop.B // cut.BB), loop.directions
    # In the interpreter two take turns, so that this is tested.
    room = 2 if interpreted() else max(1, limits(loop.x.device).programs // (cut.units * D))
    return (cut.units, min(tiles, room), D), tiles


def _form() -> str:
    if interpreted():
        return "launch"
    if driver.active.get_current_target().backend != "cuda":
        return "portable"
    return "delayed" if debug.on() else "ptx"


def _polls() -> int:
    """Polls after which a barrier is given up; ROCm's has no limit, nor has the interpreter's, which doesn't poll."""
    return 0 if _form() in ("launch", "portable") else debug.polls()


def _turns(loop: Sequence, parts: list[int], whole: int) -> Iterator[tuple[int, int, int]]:
    """First step, steps and part of each launch: one for all, or where a launch's end is the barrier one for each."""
    if not interpreted():
        yield 0, loop.T, whole
        return
    for i in range(loop.T):
        for part in parts:
            yield i, 1, part


def _options(loop: Sequence, cut: GridTiles | GridBackwardTiles, way: str, **constants: Any) -> dict[str, Any]:
    # A cooperative launch fails where not all programs can be resident; any other would hang. Loads must not be moved
    # before the barrier, which Triton's pipelining of loops (stages above 1) doesn't know.
    resident = {} if interpreted() else {"launch_cooperative_grid": True}
    tiles = {name: size for name, size in cut._asdict().items() if name.isupper()}
    return {
        "CELL": loop.shape, "ORDER": loop.order, "HAS_RESTARTS": loop.restarts is not None,
        "HAS_LIVE": loop.live is not None, "PRECISION": precision(loop.x.dtype), "FORM": _form(), "POLLS": _polls(),
        "LOADS": ".cg", "num_warps": cut.warps, "num_stages": 1, **constants, **tiles, **resident, **_tried(way),
    }  # fmt: skip


def _tried(way: str) -> dict[str, Any]:
    """What is tried of how the kernel is compiled; in the interpreter there is no other form of the barrier."""
    tried = overrides.options("grid", way)
    return {name: value for name, value in tried.items() if name != "FORM" or not interpreted()}


def _counters(loop: Sequence, tiles: int) -> Tensor:
    return torch.zeros(loop.directions, tiles, dtype=torch.int32, device=loop.x.device)


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run all steps; with save, keep what the backward needs."""
    T, B, H, x = loop.T, loop.B, loop.H, loop.x
    kept = loop.buffers(save, all_states)
    # What programs exchange has a fresh address each step, also where no backward wants it.
    exchanged = debug.empty(x, kept.fed.shape[0], T, B, loop.W)
    if T * B * H:
        functions = device_functions(loop.cell)
        cut = grid_tiles(loop.program, H, B, x.dtype.itemsize, limits(x.device), loop.directions)
        grid, tiles = _grid(loop, cut)
        bias, weights, counters = loop.columns_bias(), loop.columns_weight(), _counters(loop, tiles)
        computing = [stage for stage in range(1, loop.program.stages + 1) if computed(loop.program, stage)]
        for i, steps, until in _turns(loop, [*computing, 0], 0):
            launch(
                grid_forward_kernel, grid, x, weights, bias, loop.states, loop.parameters, loop.restarts, loop.fresh,
                loop.live, *kept._replace(fed=exchanged), counters, i, steps, tiles, T, B, H, loop.W,
                UPDATE=functions.update, VECTORS=functions.any_vectors, HAS_BIAS=bias is not None,
                KEEP=kept.rest.shape[0] > 0, SAVE=save, UNTIL=until,
                **_options(loop, cut, "forward", ROWS="gates", LEFT="weights"),
            )  # fmt: skip
    return (kept._replace(fed=exchanged) if save else kept).result()


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Gradients:
    """Run all steps backward, then the products over all steps; ``kept`` is what a forward returned with save."""
    T, B, H, x = loop.T, loop.B, loop.H, loop.x
    d = loop.gradients(upstream.finals)
    if T * B * H:
        functions = device_functions(loop.cell)
        cut = grid_backward_tiles(loop.program, H, B, x.dtype.itemsize, limits(x.device), loop.directions)
        grid, tiles = _grid(loop, cut)
        weights, counters = loop.columns_weight(), _counters(loop, tiles)
        partial = debug.empty(d.states, len(loop.program.products), cut.SLICES, B, loop.W)
        halves = [2 * k + half for k, stage in enumerate(loop.shape.PHASES) for half in range(1 + (stage > 0))]
        for i, steps, part in (*_turns(loop, halves, -1), *[(T, 0, 0)] * interpreted()):
            launch(
                grid_backward_kernel, grid, x, kept.saved, weights, loop.states, loop.parameters, loop.restarts,
                loop.fresh, loop.live, kept.output, kept.rest, upstream.output, upstream.rest, *d, partial, counters,
                i, steps, tiles, T, B, H, loop.W,
                BACKWARD=functions.any_backward, HAS_D_REST=upstream.rest is not None, PART=part,
                **_options(loop, cut, "backward", SUMS="one"),
            )  # fmt: skip
    return finish(loop, kept, d)

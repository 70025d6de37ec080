"""The grid driver's launches: resident programs that share the recurrent weights. Shapes as in loops/inputs.py.

Under Triton's interpreter, which runs programs one after another, a launch's end is the barrier: a step, and a part of
it, at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime import driver

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.codegen.per_cell import per_call
from gatefuse.kernels.equations.program import computed
from gatefuse.kernels.loops.buffers import Forward, Gradients, Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.triton.constants import Call, call_of, constants
from gatefuse.kernels.loops.triton.handing import fill, hand
from gatefuse.kernels.loops.weight_gradients import finish
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.runtime.device import Limits, limits
from gatefuse.kernels.runtime.launcher import launch
from gatefuse.kernels.runtime.settings import interpreted
from gatefuse.kernels.tiling import overrides
from gatefuse.kernels.tiling import tiles as tiling
from gatefuse.kernels.tiling.tiles import GridBackwardTiles, GridTiles, grid_backward_tiles, grid_tiles
from gatefuse.kernels.triton.grid_backward import grid_backward_kernel
from gatefuse.kernels.triton.grid_forward import grid_forward_kernel

_INTERPRETED = interpreted()  # which Triton, being here, has asked once too


class _Launch(NamedTuple):
    """What is the same for all launches of a pass at some sizes.

    Attributes:
        grid: programs by units, tiles and directions, all of which must be resident.
        tiles: of the batch.
        cut: a program's share.
        parts: of a step, for launches whose end is the barrier.
        options: constants of the kernel, and Triton's.
    """

    grid: tuple[int, int, int]
    tiles: int
    cut: GridTiles | GridBackwardTiles
    parts: tuple[int, ...]
    options: dict[str, Any]


_CONSTANTS = {"forward": {"ROWS": "gates", "LEFT": "weights"}, "backward": {"SUMS": "one"}}


def _launch_of(loop: Sequence, way: str, *flags: bool) -> _Launch:
    """Found once for all that it depends on, but where something is tried."""
    x, form = loop.x, _form(loop.x, loop.debug)
    find = _made if overrides.nothing() else _made.__wrapped__  # type: ignore[attr-defined]
    held = limits(x.device), form, _polls(form), tiling._SPLIT
    return find(loop.cell.current(), way, loop.B, x.dtype, loop.directions, call_of(loop, *flags), *held)


@per_call
def _made(
    cell: Cell, way: str, B: int, dtype: torch.dtype, directions: int, call: Call, held: Limits, form: str,
    polls: int, *_: Any,
) -> _Launch:  # fmt: skip
    H = call[0]
    sizes = cell.program, H, B, dtype.itemsize, held, directions
    cut = grid_tiles(*sizes) if way == "forward" else grid_backward_tiles(*sizes)
    tiles = -(-B // cut.BB)
    # In the interpreter two take turns, so that this is tested.
    room = 2 if _INTERPRETED else max(1, held.programs // (cut.units * directions))
    # A cooperative launch fails where not all programs can be resident; any other would hang. Loads must not be moved
    # before the barrier, which Triton's pipelining of loops (stages above 1) doesn't know.
    resident = {} if _INTERPRETED else {"launch_cooperative_grid": True}
    sized = {name: size for name, size in cut._asdict().items() if name.isupper()}
    tried = overrides.options("grid", way)
    if _INTERPRETED:  # where there is no other form of the barrier
        tried.pop("FORM", None)
    options = {
        **constants(cell, way, call), "FORM": form, "POLLS": polls, "LOADS": ".cg", "num_warps": cut.warps,
        "num_stages": 1, **_CONSTANTS[way], **sized, **resident, **tried,
    }  # fmt: skip
    if options["FORM"] == "flag":
        if form == "portable":
            raise ValueError("FORM flag must be tried on a GPU of NVIDIA's, whose assembly it is. Got another.")
        options["HAND"] = hand(cell, dtype, H, cut.KC * cut.BB, 32 * cut.warps, polls)
    if way == "forward":
        stages = range(1, cell.program.stages + 1)
        parts = (*(stage for stage in stages if computed(cell.program, stage)), 0)
    else:
        phases = enumerate(cell_shape(cell).PHASES)
        parts = tuple(2 * k + half for k, stage in phases for half in range(1 + (stage > 0)))
    return _Launch((cut.units, min(tiles, room), directions), tiles, cut, parts, options)


def _form(x: Tensor, delayed: bool) -> str:
    if _INTERPRETED:
        return "launch"
    if torch.version.hip if x.is_cuda else driver.active.get_current_target().backend != "cuda":
        return "portable"
    return "delayed" if delayed else "ptx"


def _polls(form: str) -> int:
    """Polls after which a barrier is given up; ROCm's has no limit, nor has the interpreter's, which doesn't poll."""
    return 0 if form in ("launch", "portable") else debug.polls()


def _turns(loop: Sequence, parts: tuple[int, ...], whole: int) -> Iterator[tuple[int, int, int]]:
    """First step, steps and part of each launch: one for all, or where a launch's end is the barrier one for each."""
    if not _INTERPRETED:
        yield 0, loop.T, whole
        return
    for i in range(loop.T):
        for part in parts:
            yield i, 1, part


def _counters(loop: Sequence, tiles: int) -> Tensor:
    return loop.x.new_zeros(loop.directions, tiles, dtype=torch.int32)


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run all steps; with save, keep what the backward needs."""
    T, B, H, x = loop.T, loop.B, loop.H, loop.x
    kept = loop.buffers(save, all_states)
    # What programs exchange has a fresh address each step, also where no backward wants it.
    exchanged = kept.fed if save or not kept.fed.shape[0] else loop.empty(x, (kept.fed.shape[0], T, B, loop.W))[0]
    if T * B * H:
        bias, states = loop.columns_bias(), loop.states
        found = _launch_of(loop, "forward", bias is not None, kept.rest.shape[0] > 0, save)
        if found.options["FORM"] == "flag":
            fill((kept.output, kept.rest, exchanged))
            # Loaded as what is exchanged is, in whole vectors.
            states = states.clone() if states.data_ptr() % 16 else states
        weights, counters = loop.columns_weight, _counters(loop, found.tiles)
        for i, steps, until in _turns(loop, found.parts, 0):
            launch(
                grid_forward_kernel, found.grid, x, weights, bias, states, loop.parameters, loop.restarts,
                loop.fresh, loop.live, kept.output, kept.rest, kept.finals, kept.saved, exchanged, counters, i, steps,
                found.tiles, T, B, H, loop.W, UNTIL=until, **found.options,
            )  # fmt: skip
    return kept.result()


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Gradients:
    """Run all steps backward, then the products over all steps; ``kept`` is what a forward returned with save."""
    T, B, H, x = loop.T, loop.B, loop.H, loop.x
    d = loop.gradients(upstream.finals)
    if T * B * H:
        found = _launch_of(loop, "backward", upstream.rest is not None)
        assert isinstance(found.cut, GridBackwardTiles)
        weights, counters = loop.columns_weight, _counters(loop, found.tiles)
        (partial,) = loop.empty(d.states, (len(loop.program.products), found.cut.SLICES, B, loop.W))
        for i, steps, part in (*_turns(loop, found.parts, -1), *[(T, 0, 0)] * _INTERPRETED):
            launch(
                grid_backward_kernel, found.grid, x, kept.saved, weights, loop.states, loop.parameters, loop.restarts,
                loop.fresh, loop.live, kept.output, kept.rest, kept.fed if loop.shape.TIES else None, upstream.output,
                upstream.rest, *d, partial, counters, i, steps, found.tiles, T, B, H, loop.W, PART=part,
                **found.options,
            )  # fmt: skip
    return finish(loop, kept, d)

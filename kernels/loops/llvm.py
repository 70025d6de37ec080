"""The llvm driver's time loop: all steps in one call of code compiled for this processor. Shapes as in loops/inputs.py,
of one direction; everything has the dtype of x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.codegen.llvm.compiled import Compiled, backward_loop, forward_loop
from gatefuse.kernels.codegen.llvm.steps import MOST_ROWS
from gatefuse.kernels.equations.program import computed_products
from gatefuse.kernels.loops.buffers import Backward, Forward, Gradients, Upstream, buffer_shapes, saved_layout
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.weight_gradients import finish
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.runtime.threads import pool, threads


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run all steps; with save, keep what the backward needs."""
    T, B, H, x, shape = loop.T, loop.B, loop.H, loop.x, loop.shape
    rest_shape, _, fed_shape = buffer_shapes(loop.cell, T, B, H, save, all_states)
    output, rest, fed = (debug.empty(x, *each) for each in ((T, B, H), rest_shape, fed_shape))
    # of one step where nobody keeps them, for the stages of which a later one reads them
    sums = debug.empty(x, T if save else min(T, 1), B, shape.COLUMNS * H)
    if not T * B * H:
        return Forward(output, rest, loop.states.clone(), saved_layout(sums, H) if save else sums.new_empty(0, T, B, H), fed)
    finals = debug.empty(x, *loop.states.shape)
    tiles, workers = _tiles(B)
    compiled = forward_loop(loop.cell, x.dtype, -(-B // tiles), H)
    size, step = x.element_size(), B * H * x.element_size()
    panels = -(-H // compiled.across) * compiled.across
    pack = x.new_empty(panels * shape.COLUMNS * (H + 1))
    bias = loop.bias
    values = _common(loop, tiles, workers, output, rest, finals) | {
        "sums": sums.data_ptr(),
        "sums_column": H * size,
        "sums_step": step * shape.COLUMNS if save else 0,
        "sums_row": shape.COLUMNS * H * size,
        "x": x.data_ptr(),
        "weight": loop.weight.data_ptr(),
        "bias": 0 if bias is None else bias.data_ptr(),
        "pack": pack.data_ptr(),
        "save": int(save),
        "fed": fed.data_ptr(),
        "fed_product": fed.shape[1] * step,
        "fed_step": step if save else 0,
        "finals": finals.data_ptr(),
    }
    compiled.run(compiled.fields.filled(values))
    saved = saved_layout(sums, H) if save else sums.new_empty(0, T, B, H)
    return Forward(output, rest, finals, saved, fed)


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Gradients:
    """Run all steps backward, then the products over all steps; ``kept`` is what forward returned with save."""
    T, B, H, x, shape = loop.T, loop.B, loop.H, loop.x, loop.shape
    d = loop.gradients(upstream.finals)
    if not T * B * H:
        return finish(loop, kept, d)
    tiles, workers = _tiles(B)
    compiled = backward_loop(loop.cell, x.dtype, -(-B // tiles), H)
    size, step = x.element_size(), B * H * x.element_size()
    panels = -(-H // compiled.across) * compiled.across
    pack, d_fed = x.new_empty(panels * shape.COLUMNS * H), x.new_empty(len(computed_products(loop.cell)), B, H)
    column, time, row, _ = kept.saved.stride()
    values = _common(loop, tiles, workers, kept.output, kept.rest, kept.finals) | {
        "sums": kept.saved.data_ptr(),
        "sums_column": column * size,
        "sums_step": time * size,
        "sums_row": row * size,
        "x": x.data_ptr(),
        "weight": loop.weight.data_ptr(),
        "pack": pack.data_ptr(),
        "d_output": upstream.output.data_ptr(),
        "d_rest": _address(upstream.rest),
        "d_rest_state": T * step,
        "d_states": d.states.data_ptr(),
        "d_fresh": _address(d.fresh),
        "d_parameters": d.parameters.data_ptr(),
        "d_x": d.x.data_ptr(),
        "d_r": d.r.data_ptr(),
        "d_fed": d_fed.data_ptr(),
    }
    compiled.run(compiled.fields.filled(values))
    return finish(loop, kept, d)


def _tiles(B: int) -> tuple[int, int]:
    """Into how many tiles the batch is cut, and how many threads take them."""
    most = -(-B // MOST_ROWS)
    workers = threads(B)
    tiles = -(-most // workers) * workers
    return tiles, workers


def _common(loop: Sequence, tiles: int, workers: int, output: Tensor, rest: Tensor, finals: Tensor) -> dict[str, Any]:
    """Arguments of both ways."""
    T, B, H = loop.T, loop.B, loop.H
    step = B * H * loop.x.element_size()
    values: dict[str, Any] = {
        "T": T,
        "B": B,
        "H": H,
        "reverse": int(loop.reverse),
        "tiles": tiles,
        "next": 0,
        "threads": workers,
        "pool": pool() if workers > 1 else 0,
        "parameters": loop.parameters.data_ptr(),
        "restarts": _address(loop.restarts),
        "fresh": _address(loop.fresh),
        "live": _address(loop.live),
        "first": loop.states.data_ptr(),
        "out0": output.data_ptr(),
        "step0": step,
    }
    for s in range(1, len(loop.cell.states)):
        if rest.shape[0]:
            values |= {f"out{s}": rest.data_ptr() + (s - 1) * T * step, f"step{s}": step}
        else:  # each step writes where the one before it did
            values |= {f"out{s}": finals.data_ptr() + s * step, f"step{s}": 0}
    return values


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()

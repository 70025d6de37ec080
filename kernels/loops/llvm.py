"""The llvm driver's time loop: all steps in one call of code compiled for this processor. Shapes as in loops/inputs.py,
of one direction; everything has the dtype of x.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.codegen.llvm.ahead import AS_THEY_LIE, LAID_OUT_NOW
from gatefuse.kernels.codegen.llvm.compiled import Compiled, backward_loop, forward_loop
from gatefuse.kernels.codegen.llvm.steps import MOST_ROWS
from gatefuse.kernels.equations.program import computed_products
from gatefuse.kernels.loops.buffers import Backward, Forward, Gradients, Upstream, buffer_shapes, saved_layout
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.llvm_products import gradients
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.runtime.threads import team, threads

# Bytes of weights from which on threads divide the units of a few samples: of fewer than a thread could have two of, and of
# others, up to so many a thread.
_NEAR, _FAR, _ROWS = 200_000, 1_000_000, 16
# Steps of all samples up to which weights are read as they lie.
_FEW_STEPS = 12
_ROWS_AHEAD = 96  # of the input's product, which stay in a cache


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run all steps; with save, keep what the backward needs."""
    T, B, H, x, shape = loop.T, loop.B, loop.H, loop.x, loop.shape
    whole = loop.input_weight is not None
    rest_shape, saved_shape, fed_shape = buffer_shapes(loop.cell, T, B, H, save, all_states, whole)
    output, rest, fed = (debug.empty(x, *each) for each in ((T, B, H), rest_shape, fed_shape))
    # of one step where nobody keeps them, for the stages of which a later one reads them
    columns = saved_shape[0] if save else shape.COLUMNS
    sums = debug.empty(x, T if save else min(T, 1), B, columns * H)
    saved = saved_layout(sums, H) if save else sums.new_empty(saved_shape)
    if not T * B * H:
        return Forward(output, rest, loop.states.clone(), saved, fed)
    finals = debug.empty(x, *loop.states.shape)
    division = divided(B, H, shape.COLUMNS * H * H * x.element_size())
    compiled = forward_loop(loop.cell, x.dtype, division.rows(B), H)
    size, step = x.element_size(), B * H * x.element_size()
    pack = x.new_empty(compiled.padded(H) * shape.COLUMNS * (H + 1))
    ahead = _ahead(loop, compiled, division)
    values = _common(loop, division, output, rest, finals) | {
        "sums_column": H * size,
        "sums": sums.data_ptr(),
        "sums_step": step * columns if save else 0,
        "sums_row": columns * H * size,
        "x": x.data_ptr(),
        "x_step": x.stride(0) * size,
        "x_row": x.stride(1) * size,
        "weight": loop.weight.data_ptr(),
        "bias": _address(loop.bias),
        "pack": pack.data_ptr(),
        "save": int(save),
        "fed": fed.data_ptr(),
        "fed_product": fed.shape[1] * step,
        "fed_step": step if save else 0,
        "ends": 0,
        "layout": layout(T * B),
    }
    values |= {f"final{s}": finals.data_ptr() + s * step for s in range(shape.S)}
    compiled.run(compiled.fields.filled(values | ahead.values))
    return Forward(output, rest, finals, saved, fed)


class _Ahead(NamedTuple):
    """The input's product of a few steps, which runs ahead of them: arguments, and the memory that they point to."""

    values: dict[str, int]
    memory: tuple[Tensor, ...] = ()


_NOTHING = dict.fromkeys(("I", "input_weight", "input_bias", "input_pack", "ahead", "ahead_row", "ahead_tile"), 0)


def _ahead(loop: Sequence, compiled: Compiled, division: Division) -> _Ahead:
    weight, x = loop.input_weight, loop.x
    if weight is None:
        return _Ahead({**_NOTHING, "input_steps": 1})
    N, I = weight.shape
    tiles, rows = division.tiles, division.rows(loop.B)
    row, steps = compiled.row(N), steps_ahead(loop.T, rows)
    pack, ahead = x.new_empty(row * (I + 1)), x.new_empty(tiles, steps * rows, row)
    size = x.element_size()
    values = {
        "I": I,
        "input_weight": weight.data_ptr(),
        "input_bias": _address(loop.input_bias),
        "input_pack": pack.data_ptr(),
        "input_steps": steps,
        "ahead": ahead.data_ptr(),
        "ahead_row": row * size,
        "ahead_tile": steps * rows * row * size,
    }
    return _Ahead(values, (pack, ahead))


def layout(steps: int) -> int:
    """How weights are laid out for so many steps of all samples."""
    if steps > _FEW_STEPS or torch.are_deterministic_algorithms_enabled():
        return LAID_OUT_NOW
    return AS_THEY_LIE


def steps_ahead(T: int, rows: int) -> int:
    """Steps of which the input's product is computed at once, for so many samples of a tile."""
    return min(T, max(1, _ROWS_AHEAD // rows))


def backward(loop: Sequence, kept: Forward, upstream: Upstream, wanted: bool = True) -> Gradients:
    """Run all steps backward, then the products over all steps; ``kept`` is what forward returned with save."""
    T, B, H, x, shape = loop.T, loop.B, loop.H, loop.x, loop.shape
    d = loop.gradients(upstream.finals)
    if not T * B * H:
        return _nothing(loop, d, wanted)
    division = divided(B, H, shape.COLUMNS * H * H * x.element_size())
    compiled = backward_loop(loop.cell, x.dtype, division.rows(B), H)
    size, step = x.element_size(), B * H * x.element_size()
    pack = x.new_empty(compiled.padded(H) * shape.COLUMNS * H)
    d_fed = x.new_empty(len(computed_products(loop.cell)), B, H)
    column, time, row, _ = kept.saved.stride()
    values = _common(loop, division, kept.output, kept.rest, kept.finals) | {
        "sums": kept.saved.data_ptr(),
        "sums_column": column * size,
        "sums_step": time * size,
        "sums_row": row * size,
        **_x_only(loop, kept),
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
    return gradients(loop, kept, d, wanted)


def _nothing(loop: Sequence, d: Backward, wanted: bool) -> Gradients:
    """Of no step or no sample."""
    weights = [None if w is None else torch.zeros_like(w) for w in (loop.bias, loop.input_weight, loop.input_bias)]
    d_x = d.x if loop.input_weight is None else torch.zeros_like(loop.x) if wanted else None
    return Gradients(d_x, d.states, torch.zeros_like(loop.weight), weights[0], d.parameters.sum(1), d.fresh, *weights[1:])


def _x_only(loop: Sequence, kept: Forward) -> dict[str, int]:
    """Where the slots that are x alone lie: in x, or where that is the input itself, after the columns' sums."""
    apart, size = [slot for slot in loop.program.slots if slot.column < 0], loop.x.element_size()
    if loop.input_weight is None:
        place, strides = loop.x.data_ptr(), loop.x.stride()
        found = {f"x{k}": place + slot.gate * loop.H * size for k, slot in enumerate(apart)}
        return found | {"x_step": strides[0] * size, "x_row": strides[1] * size}
    column, time, row, _ = kept.saved.stride()
    place = kept.saved.data_ptr()
    found = {f"x{k}": place + (loop.shape.COLUMNS + k) * column * size for k in range(len(apart))}
    return found | {"x_step": time * size, "x_row": row * size}


class Division(NamedTuple):
    """How threads divide a call: tiles of the batch, or where ``together`` is set the units of all samples."""

    tiles: int
    threads: int
    together: bool = False

    def rows(self, B: int) -> int:
        """Samples of a tile, at most."""
        return -(-B // self.tiles)

    def arguments(self) -> dict[str, int]:
        """As compiled loops take them."""
        return team(self.threads) | {"together": int(self.together), "tiles": self.tiles, "next": 0}


def divided(B: int, H: int, bytes: int) -> Division:
    """That of a call whose steps read so many bytes of weights."""
    most = -(-B // MOST_ROWS)
    if B <= MOST_ROWS and (bytes >= _FAR if B >= 2 * threads(B) else bytes >= _NEAR) and (many := threads(H // 16)) > 1:
        if B < _ROWS * many:
            return Division(1, many, True)
    workers = threads(B)
    return Division(-(-most // workers) * workers, workers)


def _common(loop: Sequence, division: Division, output: Tensor, rest: Tensor, finals: Tensor) -> dict[str, Any]:
    """Arguments of both ways."""
    T, B, H = loop.T, loop.B, loop.H
    row = H * loop.x.element_size()
    step, fresh = B * row, loop.fresh
    values: dict[str, Any] = {
        "T": T,
        "B": B,
        "H": H,
        "reverse": int(loop.reverse),
        **division.arguments(),
        "restarts": _address(loop.restarts),
        "live": _address(loop.live),
        "out_row": row,
        "out0": output.data_ptr(),
        "step0": step,
    }
    values |= {f"parameter{k}": loop.parameters.data_ptr() + k * row for k in range(len(loop.cell.parameters))}
    for s in range(len(loop.cell.states)):
        values[f"first{s}"] = loop.states.data_ptr() + s * step
        values[f"fresh{s}"] = 0 if fresh is None else fresh.data_ptr() + s * step
        if s and rest.shape[0]:
            values |= {f"out{s}": rest.data_ptr() + (s - 1) * T * step, f"step{s}": step}
        elif s:  # each step writes where the one before it did
            values |= {f"out{s}": finals.data_ptr() + s * step, f"step{s}": 0}
    return values


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()

"""The llvm driver's time loop: all steps in one call of code compiled for this processor. Shapes as in loops/inputs.py,
of one direction; everything has the dtype of x.

What depends on a call's sizes alone is found once, and kept with the cell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.codegen.llvm.compiled import Compiled, backward_loop, forward_loop
from gatefuse.kernels.codegen.llvm.fields import Template
from gatefuse.kernels.codegen.llvm.kept_values import kept_values
from gatefuse.kernels.codegen.llvm.products.ahead import LAID_OUT_NOW
from gatefuse.kernels.codegen.per_cell import per_call
from gatefuse.kernels.equations.program import computed_products
from gatefuse.kernels.loops.buffers import Backward, Forward, Gradients, Upstream, buffer_shapes, saved_layout
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.llvm.division import divided, layout, steps_ahead
from gatefuse.kernels.loops.llvm.products import gradients
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.runtime.scratch import Scratch
from gatefuse.kernels.runtime.threads import available


class _Plan(NamedTuple):
    """How a call runs: its code, its arguments but for addresses, and the numbers of its memory, by what it is for."""

    compiled: Compiled
    template: Template
    memory: dict[str, int]
    shapes: tuple[tuple[int, ...], ...] = ()


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run all steps; with save, keep what the backward needs."""
    x, T, B, H, weight = loop.x, loop.T, loop.B, loop.H, loop.input_weight
    I = 0 if weight is None else weight.shape[1]
    if not T * B * H:
        return _no_steps(loop, save, all_states)
    threads, deterministic = available(), torch.are_deterministic_algorithms_enabled()
    flags = loop.reverse, save, all_states, threads, deterministic
    compiled, template, memory, (rest_shape, sums_shape, fed_shape) = _forward_plan(
        loop.cell, x.dtype, T, B, H, I, *flags
    )
    output, rest, fed = debug.empty(x, T, B, H), debug.empty(x, *rest_shape), debug.empty(x, *fed_shape)
    sums, finals = debug.empty(x, *sums_shape), debug.empty(x, *loop.states.shape)
    addresses = _given(loop, output, rest, finals)
    addresses["sums"], addresses["fed"] = sums.data_ptr(), fed.data_ptr()
    addresses["x"], addresses["bias"] = x.data_ptr(), _address(loop.bias)
    addresses["input_weight"], addresses["input_bias"] = _address(weight), _address(loop.input_bias)
    addresses |= _behind("beside", loop, x)
    place, step = finals.data_ptr(), B * H * x.element_size()
    for s in range(len(loop.cell.states)):
        addresses[f"final{s}"] = place + s * step
    _run(compiled, template, addresses, memory, x.dtype)
    saved = saved_layout(sums, H) if save else sums.new_empty(0, T, B, H)
    return Forward(output, rest, finals, saved, fed)


def _no_steps(loop: Sequence, save: bool, all_states: bool) -> Forward:
    whole = loop.input_weight is not None
    shapes = buffer_shapes(loop.cell, loop.T, loop.B, loop.H, save, all_states, whole)
    rest, saved, fed = (loop.x.new_empty(shape) for shape in shapes)
    return Forward(loop.x.new_empty(loop.T, loop.B, loop.H), rest, loop.states.clone(), saved, fed)


@per_call
def _forward_plan(
    cell: Cell, dtype: torch.dtype, T: int, B: int, H: int, I: int, reverse: bool, save: bool, all_states: bool, *_: Any
) -> _Plan:
    shape, size = cell_shape(cell), dtype.itemsize
    rest, saved, fed = buffer_shapes(cell, T, B, H, save, all_states, I > 0)
    # of one step where nobody keeps them, for the stages of which a later one reads them
    columns = saved[0] if save else shape.COLUMNS
    division = divided(cell, T, B, H, I, size)
    rows = division.rows(B)
    compiled = forward_loop(cell, dtype, rows, H)
    step, G = B * H * size, len(cell.x_blocks)
    x_step, x_row = B * (I or G * H) * size, (I or G * H) * size
    numbers = _numbers(cell, T, B, H, size, reverse, rest[0] > 0) | division.arguments() | {
        "layout": layout(T * B), "save": int(save), "ends": 0, "I": I, "input_steps": 1, "ahead_row": 0, "ahead_tile":
        0, "x_step": x_step, "x_row": x_row, "sums_column": H * size, "sums_step": step *
        columns if save else 0, "sums_row": columns * H * size, "fed_product": fed[1] * step, "fed_step": step if save
        else 0,
    }  # fmt: skip
    for k in range(len(cell.inputs)):  # behind the product
        numbers |= {f"beside{k}_step": x_step, f"beside{k}_row": x_row}
    kept = kept_values(cell.program, "forward") * B * H
    memory = {"pack": compiled.padded(H) * cell.program.weighed * (H + 1), "kept": kept, "input_pack": 0, "ahead": 0}
    if I:
        row, steps = compiled.row(G * H), steps_ahead(T, rows)
        numbers |= {"input_steps": steps, "ahead_row": row * size, "ahead_tile": steps * rows * row * size}
        memory |= {"input_pack": row * (I + 1), "ahead": division.tiles * steps * rows * row}
    sums = (T if save else min(T, 1), B, columns * H)
    return _Plan(compiled, compiled.fields.template(numbers), memory, (rest, sums, fed))


def backward(loop: Sequence, kept: Forward, upstream: Upstream, wanted: bool = True) -> Gradients:
    """Run all steps backward, then the products over all steps; ``kept`` is what forward returned with save."""
    x, T, B, H, saved = loop.x, loop.T, loop.B, loop.H, kept.saved
    d = loop.gradients(upstream.finals)
    if not T * B * H:
        return _nothing(loop, d, wanted)
    whole, threads = loop.input_weight is not None, available()
    strides = x.stride(), saved.stride()
    compiled, template, memory, _ = _backward_plan(loop.cell, x.dtype, T, B, H, whole, loop.reverse, *strides, threads)
    addresses = _given(loop, kept.output, kept.rest, kept.finals)
    addresses["sums"], addresses["d_output"] = saved.data_ptr(), upstream.output.data_ptr()
    addresses["fed"] = kept.fed.data_ptr()
    addresses["d_rest"], addresses["d_states"] = _address(upstream.rest), d.states.data_ptr()
    addresses["d_fresh"], addresses["d_parameters"] = _address(d.fresh), d.parameters.data_ptr()
    addresses["d_x"], addresses["d_r"] = d.x.data_ptr(), d.r.data_ptr()
    addresses |= _behind("d_beside", loop, d.x)
    apart = [slot for slot in loop.program.slots if slot.column < 0]
    for k, slot in enumerate(apart):  # in x, or where that is the input itself, after the columns' sums
        at = saved, (len(loop.program.columns) + k) * saved.stride(0)
        tensor, numbers = at if whole else (x, slot.gate * H)
        addresses[f"x{k}"] = tensor.data_ptr() + numbers * x.element_size()
    _run(compiled, template, addresses, memory, x.dtype)
    return gradients(loop, kept, d, wanted)


@per_call
def _backward_plan(
    cell: Cell, dtype: torch.dtype, T: int, B: int, H: int, whole: bool, reverse: bool,
    x: tuple[int, ...], saved: tuple[int, ...], *_: Any,
) -> _Plan:  # fmt: skip
    """``x`` and ``saved``: their strides."""
    size = dtype.itemsize
    division = divided(cell, T, B, H, 0, size)
    compiled = backward_loop(cell, dtype, division.rows(B), H)
    column, time, row = saved[:3]
    step = B * H * size
    keep = len(cell.states) > 1
    d_row = len(cell.x_blocks) * H * size
    numbers = _numbers(cell, T, B, H, size, reverse, keep) | division.arguments() | {
        "sums_column": column * size, "sums_step": time * size, "sums_row": row * size,
        "x_step": (time if whole else x[0]) * size, "x_row": (row if whole else x[1]) * size, "d_rest_state": T * step,
        "fed_product": T * step, "fed_step": step,
        "d_x_step": B * d_row, "d_x_row": d_row, "d_beside_step": B * d_row, "d_beside_row": d_row,
        "layout": LAID_OUT_NOW,
    }  # fmt: skip
    fed, kept = len(computed_products(cell)), kept_values(cell.program, "backward")
    memory = {"pack": compiled.padded(H) * cell.program.weighed * H, "d_fed": fed * B * H, "kept": kept * B * H}
    return _Plan(compiled, compiled.fields.template(numbers), memory)


def _numbers(cell: Cell, T: int, B: int, H: int, size: int, reverse: bool, keep: bool) -> dict[str, int]:
    """Arguments of both ways that are no addresses; ``keep``: the other states' sequences are kept."""
    step = B * H * size
    found = {"T": T, "B": B, "H": H, "reverse": int(reverse), "out_row": H * size, "step0": step}
    # where they aren't, each step writes where the one before it did
    return found | {f"step{s}": step if keep else 0 for s in range(1, len(cell.states))}


def _given(loop: Sequence, output: Tensor, rest: Tensor, finals: Tensor) -> dict[str, int]:
    """Addresses of both ways."""
    T, B, H, fresh = loop.T, loop.B, loop.H, loop.fresh
    row = H * loop.x.element_size()
    step, first, parameters = B * row, loop.states.data_ptr(), loop.parameters.data_ptr()
    begins, others, last = _address(fresh), rest.data_ptr(), finals.data_ptr()
    addresses = {"weight": loop.weight.data_ptr(), "live": _address(loop.live), "restarts": _address(loop.restarts)}
    for k in range(len(loop.cell.parameters)):
        addresses[f"parameter{k}"] = parameters + k * row
    addresses["out0"] = output.data_ptr()
    for s in range(len(loop.cell.states)):
        addresses[f"first{s}"] = first + s * step
        addresses[f"fresh{s}"] = begins and begins + s * step
        if s:
            addresses[f"out{s}"] = others + (s - 1) * T * step if rest.shape[0] else last + s * step
    return addresses


def _behind(name: str, loop: Sequence, x: Tensor) -> dict[str, int]:
    """Addresses of the inputs beside the gates, behind the product."""
    first, size = len(loop.cell.input_gates), loop.H * x.element_size()
    return {f"{name}{k}": x.data_ptr() + (first + k) * size for k in range(len(loop.cell.inputs))}


def _run(
    compiled: Compiled, template: Template, addresses: dict[str, int], memory: dict[str, int], dtype: torch.dtype
) -> None:
    """Run with these addresses, and memory of so many numbers by what it is for."""
    with Scratch(sum(memory.values()), dtype) as block:
        place = block.data_ptr()
        for name, numbers in memory.items():
            addresses[name] = place
            place += numbers * dtype.itemsize
        compiled.run(template.filled(addresses))


def _nothing(loop: Sequence, d: Backward, wanted: bool) -> Gradients:
    """Of no step or no sample."""
    weights = [None if w is None else torch.zeros_like(w) for w in (loop.bias, loop.input_weight, loop.input_bias)]
    d_x = d.x if loop.input_weight is None else torch.zeros_like(loop.x) if wanted else None
    return Gradients(
        d_x, d.states, torch.zeros_like(loop.weight), weights[0], d.parameters.sum(1), d.fresh, *weights[1:]
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()

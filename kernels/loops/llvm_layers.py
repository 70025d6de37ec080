"""Layers of a cell by compiled code where nothing is differentiated: one call for each layer and direction, all memory in
one block, and nothing done beyond a sample's end.

What depends on the sizes alone is found once, and kept with the cell: arguments, of which a call sets the addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.codegen.llvm.compiled import Compiled, forward_loop
from gatefuse.kernels.equations.program import computed_products
from gatefuse.kernels.loops.llvm_division import divided, layout, steps_ahead
from gatefuse.kernels.task import Form, live, restarts

_MOST = 256  # sizes of which a cell keeps the arguments
_LINE = 64  # bytes


class _Place(NamedTuple):
    """An address: of a block, by its number, and bytes on."""

    block: int
    offset: int


class _Run(NamedTuple):
    """A call of compiled code: all its arguments, and those among them that are addresses."""

    compiled: Compiled
    arguments: ctypes.Array
    places: tuple[tuple[int, _Place], ...]


class _Schedule(NamedTuple):
    """The calls of all layers, and the bytes of memory that they share."""

    runs: tuple[_Run, ...]
    bytes: int


def layers(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    form: Form,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    fresh: Sequence[Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions, without gradients and without dropout.

    Args:
        x: (T, B, I), with a step and a sample, in any order of memory.
        form: the layers'; x is time first whatever it says.
        states, fresh: (L * D, B, H) each.
        weights: of each layer and direction in turn, as in Task.
        lengths: (B,) or None.
        resets: (T, B) or None.

    Returns:
        The output (T, B, D * H), and the final states (L * D, B, H).
    """
    version = cell.current()
    x = x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()
    (T, B, I), H, masked = x.shape, states[0].shape[-1], lengths is not None
    masks = _masks(T, lengths, resets, form) if masked or resets is not None else ()
    key = x.dtype, T, B, H, I, x.stride(), form, masked, resets is not None, torch.get_num_threads(), layout(T * B)
    schedules = version.made.setdefault("layers", {})
    schedule = schedules.get(key)
    if schedule is None:
        if len(schedules) >= _MOST:
            schedules.clear()
        schedule = schedules[key] = _schedule(version, x, H, form, masked, resets is not None)
    output = x.new_empty(T, B, form.directions * H)
    finals = [x.new_empty(s.shape) for s in states]
    memory = x.new_empty(schedule.bytes // x.element_size())
    given = [w if w.is_contiguous() else w.contiguous() for w in weights]
    if fresh is None and resets is not None:
        fresh = [torch.full_like(s, first) for s, first in zip(states, cell.init, strict=True)]
    blocks = [memory, x, output, *finals, *states, *given, *masks, *(fresh or ())]
    addresses = [block.data_ptr() for block in blocks]
    for compiled, arguments, places in schedule.runs:
        filled = type(arguments).from_buffer_copy(arguments)
        for k, (block, offset) in places:
            filled[k] = addresses[block] + offset
        compiled.run(filled)
    return output, tuple(finals)


def _masks(T: int, lengths: Tensor | None, resets: Tensor | None, form: Form) -> list[Tensor]:
    """With lengths, which samples have which step; with resets, by direction, which begin anew."""
    within = None if lengths is None else live(lengths, T)
    masks = [] if within is None else [within]
    if resets is not None:
        masks += [restarts(resets, within, d == 1).contiguous() for d in range(form.directions)]
    return masks


class _Memory:
    """A block of memory as it is given out."""

    def __init__(self, size: int):
        self.bytes, self._size = 0, size

    def take(self, numbers: int) -> _Place:
        """Room for so many numbers, at the begin of a line of the cache."""
        place = _Place(0, self.bytes)
        self.bytes += -(-numbers * self._size // _LINE) * _LINE
        return place


def _schedule(cell: Cell, x: Tensor, H: int, form: Form, masked: bool, resets: bool) -> _Schedule:
    """The calls for these sizes. Blocks of addresses are those of ``layers``."""
    (T, B, _), size, D, S = x.shape, x.element_size(), form.directions, len(cell.states)
    memory = _Memory(size)
    division = divided(B, H, cell_shape(cell).COLUMNS * H * H * size)
    compiled = forward_loop(cell, x.dtype, division.rows(B), H)
    each, rows = form.each + len(cell.parameters), form.num_layers * D
    of_weights = 3 + 2 * S
    of_masks = of_weights + rows * each
    of_restarts = of_masks + masked
    of_fresh = of_restarts + (D if resets else 0)
    shared = _shared(cell, compiled, memory, T, B, H) | division.arguments()
    shared["live"] = _Place(of_masks, 0) if masked else 0
    between = [memory.take(T * B * D * H) for _ in range(min(2, form.num_layers - 1))]
    runs = []
    for layer in range(form.num_layers):
        last = layer == form.num_layers - 1
        I, strides = (D * H, (B * D * H, D * H)) if layer else (x.shape[2], x.stride())
        x_at = between[(layer - 1) % 2] if layer else _Place(1, 0)
        out_at = _Place(2, 0) if last else between[layer % 2]
        for d in range(D):
            row, first = layer * D + d, of_weights + (layer * D + d) * each
            values = shared | _input(cell, compiled, I, H, T, B, division.tiles, size) | {
                "reverse": d,
                "x": x_at, "x_step": strides[0] * size, "x_row": strides[1] * size,
                "out0": out_at._replace(offset=out_at.offset + d * H * size),
                "step0": B * D * H * size, "out_row": D * H * size,
                "input_weight": _Place(first, 0), "weight": _Place(first + 1, 0),
                "input_bias": _Place(first + 2, 0) if form.bias else 0,
                "bias": _Place(first + 3, 0) if form.bias else 0,
                "restarts": _Place(of_restarts + d, 0) if resets else 0,
            }  # fmt: skip
            at = row * B * H * size
            values |= {f"parameter{k}": _Place(first + form.each + k, 0) for k in range(len(cell.parameters))}
            for s in range(S):
                values |= {f"final{s}": _Place(3 + s, at), f"first{s}": _Place(3 + S + s, at)}
                values[f"fresh{s}"] = _Place(of_fresh + s, at) if resets else 0
                if s:  # where the step before wrote, if no product reads it
                    values |= {f"out{s}": _Place(3 + s, at), f"step{s}": 0} if f"out{s}" not in shared else {}
            runs.append((compiled, values))
    pack = max(v.pop("input_pack") for _, v in runs), max(v.pop("ahead") for _, v in runs)
    places = {"input_pack": memory.take(pack[0]), "ahead": memory.take(pack[1])}
    return _Schedule(tuple(_run(c, v | places) for c, v in runs), memory.bytes)


def _shared(
    cell: Cell, compiled: Compiled, memory: _Memory, T: int, B: int, H: int
) -> dict[str, Any]:
    """Arguments that all layers have, and memory that one after the other uses."""
    columns, size = cell_shape(cell).COLUMNS, memory._size
    fed = len(computed_products(cell))
    values: dict[str, Any] = {
        "T": T, "B": B, "H": H, "save": 0, "ends": 1, "layout": layout(T * B),
        "sums": memory.take(B * columns * H if cell.program.stages > 1 else 0),
        "sums_column": H * size, "sums_step": 0, "sums_row": columns * H * size,
        "pack": memory.take(compiled.padded(H) * columns * (H + 1)),
        "fed": memory.take(fed * B * H), "fed_product": B * H * size, "fed_step": 0,
    }  # fmt: skip
    if any(p.state > 0 for p in cell.program.products):
        # products read all units of a state while others are written
        for s in range(1, len(cell.states)):
            values |= {f"out{s}": memory.take(T * B * H), f"step{s}": B * H * size}
    return values


def _input(cell: Cell, compiled: Compiled, I: int, H: int, T: int, B: int, tiles: int, size: int) -> dict[str, Any]:
    """Arguments of the input's product; of its memory the numbers that it takes."""
    rows, row = -(-B // tiles), compiled.row(len(cell.gates) * H)
    steps = steps_ahead(T, rows)
    return {
        "I": I, "input_pack": row * (I + 1), "input_steps": steps, "ahead": tiles * steps * rows * row,
        "ahead_row": row * size, "ahead_tile": steps * rows * row * size,
    }  # fmt: skip


def _run(compiled: Compiled, values: dict[str, Any]) -> _Run:
    names = compiled.fields.names
    places = tuple((k, values[name]) for k, name in enumerate(names) if isinstance(values[name], _Place))
    numbers = {name: 0 if isinstance(values[name], _Place) else values[name] for name in names}
    return _Run(compiled, compiled.fields.filled(numbers), places)

"""Layers of a cell by compiled code where nothing is differentiated: one call for each layer and direction, all memory
in one block, and nothing done beyond a sample's end.

What depends on the sizes alone is found once, and kept with the cell: arguments, of which a call sets the addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.codegen.llvm.compiled import Compiled, forward_loop
from gatefuse.kernels.codegen.llvm.kept_values import kept_values
from gatefuse.kernels.codegen.llvm.products.ahead import LAID_OUT, LAID_OUT_NOW
from gatefuse.kernels.codegen.per_cell import per_call
from gatefuse.kernels.equations.program import computed_products
from gatefuse.kernels.loops.directions import plain
from gatefuse.kernels.loops.layer_weights import dense, weight_shapes
from gatefuse.kernels.loops.llvm.beside import Differs, beside_arguments, differs, wide
from gatefuse.kernels.loops.llvm.division import divided, layout
from gatefuse.kernels.loops.llvm.schedule import Memory, Place, Run, input_arguments, prepared, readable, run_all
from gatefuse.kernels.runtime.threads import available
from gatefuse.kernels.task import Form, live, restarts


class _Schedule(NamedTuple):
    """The calls of all layers, the bytes of memory that they share, and the shapes that weights must have."""

    runs: tuple[Run, ...]
    bytes: int
    shapes: tuple[tuple[int, ...], ...]


class Prepared(NamedTuple):
    """Layers for one form of x, of a call without lengths and resets.

    Attributes:
        schedule: their calls.
        output, states: shapes of the output and of each state.
    """

    cell: Cell
    schedule: _Schedule
    form: Form
    output: tuple[int, ...]
    states: tuple[int, ...]

    @staticmethod
    def of(version: Cell, x: Tensor, states: Sequence[int], form: Form, inputs: Sequence[Tensor] = ()) -> Prepared:
        """For an input like x (T, B, I), whose features lie side by side, states (L * D, B, H), and inputs beside the
        gates like these."""
        T, B, _ = x.shape
        sizes = x.dtype, x.shape, x.stride(), states[2], form
        schedule = _schedule(version, *sizes, False, False, differs(inputs), *_settings(T, B))
        return Prepared(version, schedule, form, (T, B, form.directions * states[2]), tuple(states))

    def run(
        self, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], inputs: Sequence[Tensor] = ()
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As ``layers``; x is only asked where it lies."""
        output = x.new_empty(self.output)
        finals = [x.new_empty(self.states) for _ in states]
        given = dense(self.cell, self.form, weights, self.schedule.shapes, x)
        blocks = [x, output, *finals, *states, *given, *wide(inputs, self.output[2] // self.form.directions)]
        run_all(self.schedule.runs, self.schedule.bytes, blocks, x)
        return output, tuple(finals)


def _settings(T: int, B: int) -> tuple[Any, ...]:
    """What a schedule depends on besides sizes."""
    return layout(T * B), available(), torch.are_deterministic_algorithms_enabled()


def layers(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    form: Form,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    fresh: Sequence[Tensor] | None = None,
    inputs: Sequence[Tensor] = (),
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions, without gradients and without dropout.

    Args:
        x: (T, B, I), with a step and a sample, in any order of memory.
        form: the layers'; x is time first whatever it says.
        states, fresh: (L * D, B, H) each.
        weights: of each layer and direction in turn, as in Task.
        lengths: (B,) or None.
        resets: (T, B) or None.
        inputs: those beside the gates, (L * D, T, B, H) each, or 1 in the place of any of these.

    Returns:
        The output (T, B, D * H), and the final states (L * D, B, H).
    """
    version = cell.current()
    x = readable(x)
    (T, B, _), H, masked = x.shape, states[0].shape[-1], lengths is not None
    masks = _masks(T, lengths, resets, form) if masked or resets is not None else ()
    sizes = x.dtype, x.shape, x.stride(), H, form
    schedule = _schedule(version, *sizes, masked, resets is not None, differs(inputs), *_settings(T, B))
    output = x.new_empty(T, B, form.directions * H)
    finals = [x.new_empty(s.shape) for s in states]
    given = dense(cell, form, weights, schedule.shapes, x)
    if fresh is None and resets is not None:
        fresh = [torch.full_like(s, first) for s, first in zip(states, cell.init, strict=True)]
    blocks = [x, output, *finals, *map(plain, states), *given, *masks, *map(plain, fresh or ()), *wide(inputs, H)]
    run_all(schedule.runs, schedule.bytes, blocks, x)
    return output, tuple(finals)


def _masks(T: int, lengths: Tensor | None, resets: Tensor | None, form: Form) -> list[Tensor]:
    """With lengths, which samples have which step; with resets, by direction, which begin anew."""
    within = None if lengths is None else live(lengths, T)
    masks = [] if within is None else [within]
    if resets is not None:
        masks += [restarts(resets, within, d == 1).contiguous() for d in range(form.directions)]
    return masks


@per_call
def _schedule(
    cell: Cell, dtype: torch.dtype, shape: tuple[int, int, int], strides: tuple[int, ...], H: int, form: Form,
    masked: bool, resets: bool, beside: Differs, laid_out: int, *_: Any,
) -> _Schedule:  # fmt: skip
    """The calls for these sizes; x has the shape and the strides. Blocks of addresses are those of ``layers``."""
    (T, B, I), size, D, S = shape, dtype.itemsize, form.directions, len(cell.states)
    memory = Memory(size)
    division = divided(cell, T, B, H, I, size)
    compiled = forward_loop(cell, dtype, division.rows(B), H)
    each, rows = form.each + len(cell.parameters), form.num_layers * D
    of_weights = 3 + 2 * S
    of_masks = of_weights + rows * each
    of_restarts = of_masks + masked
    of_fresh = of_restarts + (D if resets else 0)
    of_beside = of_fresh + (S if resets else 0)
    shared = _shared(cell, compiled, memory, T, B, H) | division.arguments()
    shared |= {"layout": laid_out, "live": Place(of_masks, 0) if masked else 0}
    shapes = tuple(shape for k in range(rows) for shape in weight_shapes(cell, form, I if k < D else D * H, H))
    between = [memory.take(T * B * D * H) for _ in range(min(2, form.num_layers - 1))]
    runs = []
    for layer in range(form.num_layers):
        last = layer == form.num_layers - 1
        given, steps = (D * H, (B * D * H, D * H)) if layer else (I, strides)
        x_at = between[(layer - 1) % 2] if layer else Place(1, 0)
        out_at = Place(2, 0) if last else between[layer % 2]
        for d in range(D):
            row, first = layer * D + d, of_weights + (layer * D + d) * each
            values = shared | input_arguments(cell, compiled, given, H, T, B, division.tiles, size) | {
                "reverse": d,
                "x": x_at, "x_step": steps[0] * size, "x_row": steps[1] * size,
                "out0": out_at._replace(offset=out_at.offset + d * H * size),
                "step0": B * D * H * size, "out_row": D * H * size,
                "input_weight": Place(first, 0), "weight": Place(first + 1, 0),
                "input_bias": Place(first + 2, 0) if form.bias else 0,
                "bias": Place(first + 3, 0) if form.bias else 0,
                "restarts": Place(of_restarts + d, 0) if resets else 0,
            }  # fmt: skip
            at = row * B * H * size
            values |= beside_arguments(beside, of_beside, row, T, B, H, size)
            values |= {f"parameter{k}": Place(first + form.each + k, 0) for k in range(len(cell.parameters))}
            for s in range(S):
                values |= {f"final{s}": Place(3 + s, at), f"first{s}": Place(3 + S + s, at)}
                values[f"fresh{s}"] = Place(of_fresh + s, at) if resets else 0
                if s:  # where the step before wrote, if no product reads it
                    values |= {f"out{s}": Place(3 + s, at), f"step{s}": 0} if f"out{s}" not in shared else {}
            runs.append((compiled, values))
    if laid_out == LAID_OUT:  # each layer's weights stay where they are
        for _, values in runs:
            values |= {name: memory.take(values[name]) for name in ("pack", "input_pack", "ahead")}
        return _Schedule(tuple(prepared(*each) for each in runs), memory.bytes, shapes)
    places = {name: memory.take(max(v[name] for _, v in runs)) for name in ("pack", "input_pack", "ahead")}
    return _Schedule(tuple(prepared(c, v | places) for c, v in runs), memory.bytes, shapes)


def _shared(cell: Cell, compiled: Compiled, memory: Memory, T: int, B: int, H: int) -> dict[str, Any]:
    """Arguments that all layers have, and memory that one after the other uses; of ``pack`` the numbers that it
    takes."""
    columns, size = cell_shape(cell).COLUMNS, memory.size
    fed = len(computed_products(cell))
    values: dict[str, Any] = {
        "T": T, "B": B, "H": H, "save": 0, "ends": 1,
        "sums": memory.take(B * columns * H if cell.program.stages > 1 else 0),
        "sums_column": H * size, "sums_step": 0, "sums_row": columns * H * size,
        "pack": compiled.padded(H) * cell.program.weighed * (H + 1),
        "kept": memory.take(kept_values(cell.program, "forward") * B * H),
        "fed": memory.take(fed * B * H), "fed_product": B * H * size, "fed_step": 0,
    }  # fmt: skip
    if any(p.state > 0 for p in cell.program.products):
        # products read all units of a state while others are written
        for s in range(1, len(cell.states)):
            values |= {f"out{s}": memory.take(T * B * H), f"step{s}": B * H * size}
    return values


class Steps:
    """One step at a time of all layers, in one direction, on weights that are laid out once and in memory that is held.

    Args:
        shape: of a step's input, (B, I).
        states: (L, B, H) each, which a step changes.
        weights, form: as in ``layers``.
        inputs: how many a step is given beside the gates.
    """

    def __init__(
        self,
        cell: Cell,
        shape: Sequence[int],
        states: Sequence[Tensor],
        weights: Sequence[Tensor],
        form: Form,
        inputs: int = 0,
    ):
        self._cell, self._shape, self._states, self._form = cell.current(), shape, states, form
        self._weights = [w.clone(memory_format=torch.contiguous_format) for w in weights]
        self._output = states[0].new_empty(shape[0], states[0].shape[2])
        with torch.inference_mode(False):  # within which they could not be set afterwards
            self._inputs = [torch.empty_like(self._output) for _ in range(inputs)]
        self._begin()

    def _begin(self) -> None:
        (B, I), H, like = self._shape, self._states[0].shape[2], self._states[0]
        self._threads = available()
        sizes = like.dtype, (1, B, I), (B * I, I, 1), H, self._form
        differ = ((False, False, True),) * len(self._inputs)
        schedule = _schedule(self._cell, *sizes, False, False, differ, LAID_OUT, self._threads, True)
        memory = like.new_empty(schedule.bytes // like.element_size())
        given = dense(self._cell, self._form, self._weights, schedule.shapes, like)
        # the final states go where the first ones were
        self._held = [memory, like, self._output, *self._states, *self._states, *given, *self._inputs]
        addresses = [block.data_ptr() for block in self._held]
        self._calls = []
        for compiled, arguments, places in schedule.runs:
            filled = type(arguments).from_buffer_copy(arguments)
            for k, (block, offset) in places:
                filled[k] = addresses[block] + offset
            self._calls.append((compiled.run, filled))
        names = schedule.runs[0].compiled.fields.names
        self._x, self._layout = names.index("x"), names.index("layout")
        self._counts = [names.index(name) for name in ("next", "joined", "arrived")]
        self._fresh = True  # weights are to be laid out by the next step

    def run(self, x: Tensor, inputs: Sequence[Tensor] = ()) -> Tensor:
        """A step of x (B, I) and inputs (B, H), or 1 in the place of B or H; the output (B, H) lies where the last
        one's did."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given.detach())
        if available() != self._threads:  # as they were set, or in a child of a fork
            self._begin()
        x = plain(x)
        calls = self._calls
        calls[0][1][self._x] = x.data_ptr()
        fresh = self._fresh
        for run, arguments in calls:
            for k in self._counts:
                arguments[k] = 0
            if fresh:
                arguments[self._layout] = LAID_OUT_NOW
            run(arguments)
            if fresh:
                arguments[self._layout] = LAID_OUT
        self._fresh = False
        return self._output

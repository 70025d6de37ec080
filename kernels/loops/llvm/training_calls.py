"""The calls of compiled code that train layers of a cell, prepared for their sizes: training.py runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.codegen.llvm.compiled import backward_loop, forward_loop
from gatefuse.kernels.codegen.llvm.kept_values import kept_values
from gatefuse.kernels.codegen.llvm.loops.arguments import apart_slots
from gatefuse.kernels.codegen.llvm.loops.backward import readable_as_they_lie
from gatefuse.kernels.codegen.llvm.products.ahead import LAID_OUT_NOW
from gatefuse.kernels.codegen.per_cell import per_call
from gatefuse.kernels.equations.program import Program, computed_products
from gatefuse.kernels.loops.buffers import buffer_shapes
from gatefuse.kernels.loops.layer_weights import weight_shapes
from gatefuse.kernels.loops.llvm.beside import Differs, beside_arguments
from gatefuse.kernels.loops.llvm.division import divided
from gatefuse.kernels.loops.llvm.products import of_input, of_weights
from gatefuse.kernels.loops.llvm.schedule import Memory, Place, Run, input_arguments, prepared
from gatefuse.kernels.task import Form


class Schedule(NamedTuple):
    """The calls of all layers both ways.

    Attributes:
        forward, backward: calls, in the order in which they run; backward ends with the gradient of x, whose call is
            left out where nobody wants it.
        bytes: of the memory that each way's calls share.
        kept: numbers that forward keeps for backward.
        output: where among them the output lies.
        shapes: of the weights.
    """

    forward: tuple[Run, ...]
    backward: tuple[Run, ...]
    bytes: tuple[int, int]
    kept: int
    output: int
    shapes: tuple[tuple[int, ...], ...]


class _Blocks(NamedTuple):
    """Numbers of blocks of addresses: of a way's first of the states, of the weights, of fresh states, and the mask."""

    states: int
    weights: int
    mask: int
    fresh: int

    @classmethod
    def after(cls, first: int, S: int, weights: int) -> _Blocks:
        of_mask = first + S + weights
        return cls(first, first + S, of_mask, of_mask + 1)


_KEPT, _X, _FINALS = 1, 2, 3
_D_OUTPUT, _D_STATES, _D_PARAMETERS, _D_FRESH, _D_X, _OTHERS = range(3, 9)


@per_call
def schedule(
    cell: Cell, dtype: torch.dtype, T: int, B: int, I: int, strides: tuple[int, int, int], H: int, form: Form,
    resets: bool, beside: Differs, laid_out: int, *_: Any,
) -> Schedule:  # fmt: skip
    """Forward's blocks: kept, x, finals, states, weights, the mask, fresh, inputs beside the gates. Backward's: kept,
    x, the gradients of the output, the states, the parameters by sample, fresh and x, then states, weights, the mask,
    fresh, and the gradients of the weights and of the inputs beside the gates, (L, T, B, H) each."""
    sizes = _Sizes(cell, dtype, T, B, I, H, form, resets)
    S, L = len(cell.states), form.num_layers
    keep, ahead, back = (Memory(dtype.itemsize, block) for block in (_KEPT, 0, 0))
    layers: list[_Layer] = []
    for number in range(L):
        if number:
            layers.append(_Layer(sizes, number, keep, H, layers[-1].sequences[0], B * H, H))
        else:
            layers.append(_Layer(sizes, number, keep, I, Place(_X, 0), strides[0], strides[1]))
    first = _Blocks.after(_FINALS + S, S, L * sizes.each)
    given = first.fresh + (S if resets else 0)
    forward = sizes.placed([layer.forward(first, laid_out, beside, given) for layer in layers], ahead)
    later = _Blocks.after(_OTHERS, S, L * sizes.each)
    gradients = later.fresh + (S if resets else 0)
    d_x = back.take(T * B * len(cell.input_gates) * H)
    d_r = d_x if sizes.shape.ADDITIVE else back.take(T * B * sizes.shape.COLUMNS * H)
    between = back.take(T * B * H)
    calls = []
    for layer in reversed(layers):
        d_output = Place(_D_OUTPUT, 0) if layer.number == L - 1 else between
        d_input = between if layer.number else Place(_D_X, 0)
        calls += layer.backward(later, gradients, d_output, d_x, d_r, d_input, laid_out)
    backward = sizes.placed(calls, back)
    shapes = tuple(shape for k in range(L) for shape in weight_shapes(cell, form, H if k else I, H))
    output = layers[-1].sequences[0].offset // dtype.itemsize
    return Schedule(forward, backward, (ahead.bytes, back.bytes), keep.bytes // dtype.itemsize, output, shapes)


class _Sizes:
    """What all layers of a call share."""

    def __init__(self, cell: Cell, dtype: torch.dtype, T: int, B: int, I: int, H: int, form: Form, resets: bool):
        self.cell, self.dtype, self.T, self.B, self.H, self.form, self.resets = cell, dtype, T, B, H, form, resets
        self.program: Program = cell.program
        self.shape, self.fed = cell_shape(cell), computed_products(cell)
        self.size, self.step = dtype.itemsize, B * H * dtype.itemsize
        self.each = form.each + len(cell.parameters)
        self.division = divided(cell, T, B, H, I, self.size)
        rows = self.division.rows(B)
        self.ahead, self.back = forward_loop(cell, dtype, rows, H), backward_loop(cell, dtype, rows, H)

    def placed(self, calls: Sequence[tuple[Any, dict[str, Any]]], memory: Memory) -> tuple[Run, ...]:
        """The calls, with memory, which they share, in place of the numbers that each takes by name."""
        names = dict.fromkeys(name for _, values in calls for name in _TAKEN if name in values)
        places = {name: memory.take(max(values.get(name, 0) for _, values in calls)) for name in names}
        return tuple(
            prepared(compiled, values | {name: place for name, place in places.items() if name in values})
            for compiled, values in calls
        )


_TAKEN = ("pack", "input_pack", "ahead", "d_fed", "kept")


class _Layer:
    """A layer's arguments both ways.

    Args:
        number: its place among the layers.
        keep: gives out what forward keeps for backward.
        I, x, x_step, x_row: features of its input, where that lies, numbers from a step and a sample to the next.
    """

    def __init__(self, sizes: _Sizes, number: int, keep: Memory, I: int, x: Place, x_step: int, x_row: int):
        self._sizes, self.number, self._I, self._x = sizes, number, I, x
        T, B, H, size = sizes.T, sizes.B, sizes.H, sizes.size
        self._x_steps = {"x_step": x_step * size, "x_row": x_row * size}
        rest, saved, fed = buffer_shapes(sizes.cell, T, B, H, True, False, True)
        self._sums, self._columns = keep.take(T * B * saved[0] * H), saved[0]
        self._fed = keep.take(fed[0] * T * B * H)
        self.sequences = [keep.take(T * B * H) for _ in range(1 + rest[0])]

    def _both(self, blocks: _Blocks) -> dict[str, Any]:
        sizes, row = self._sizes, self._sizes.H * self._sizes.size
        T, B, H, form = sizes.T, sizes.B, sizes.H, sizes.form
        weights, at = blocks.weights + self.number * sizes.each, self.number * sizes.step
        values: dict[str, Any] = sizes.division.arguments() | {
            "T": T, "B": B, "H": H, "reverse": 0, "live": 0, "out_row": row, "weight": Place(weights + 1, 0),
            "restarts": Place(blocks.mask, 0) if sizes.resets else 0,
            "sums": self._sums, "sums_column": row, "sums_row": self._columns * row,
            "sums_step": self._columns * sizes.step,
            "fed": self._fed, "fed_product": T * sizes.step, "fed_step": sizes.step,
        }  # fmt: skip
        for s, place in enumerate(self.sequences):
            values |= {f"out{s}": place, f"step{s}": sizes.step, f"first{s}": Place(blocks.states + s, at)}
            values[f"fresh{s}"] = Place(blocks.fresh + s, at) if sizes.resets else 0
        for k in range(len(sizes.cell.parameters)):
            values[f"parameter{k}"] = Place(weights + form.each + k, 0)
        return values

    def forward(self, blocks: _Blocks, laid_out: int, beside: Differs, given: int) -> tuple[Any, dict[str, Any]]:
        """``given`` is the first block of the inputs beside the gates."""
        sizes = self._sizes
        T, B, H, form, cell = sizes.T, sizes.B, sizes.H, sizes.form, sizes.cell
        weights = blocks.weights + self.number * sizes.each
        more = beside_arguments(beside, given, self.number, T, B, H, sizes.size)
        more |= input_arguments(cell, sizes.ahead, self._I, H, T, B, sizes.division.tiles, sizes.size)
        values = self._both(blocks) | more | self._x_steps | {
            "x": self._x, "input_weight": Place(weights, 0), "layout": laid_out, "save": 1, "ends": 0,
            "input_bias": Place(weights + 2, 0) if form.bias else 0, "bias": Place(weights + 3, 0) if form.bias else 0,
            "pack": sizes.ahead.padded(H) * sizes.program.weighed * (H + 1),
            "kept": kept_values(sizes.program, "forward") * B * H,
        }  # fmt: skip
        finals = range(len(cell.states))
        return sizes.ahead, values | {f"final{s}": Place(_FINALS + s, self.number * sizes.step) for s in finals}

    def backward(
        self, blocks: _Blocks, gradients: int, d_output: Place, d_x: Place, d_r: Place, d_input: Place, laid_out: int
    ) -> list[tuple[Any, dict[str, Any]]]:
        """The steps, then the products over all steps, the input's gradient last; ``gradients`` is the first block of
        the weights' ones, and of the places all but d_output are filled."""
        sizes, form = self._sizes, self._sizes.form
        T, B, H, size, dtype = sizes.T, sizes.B, sizes.H, sizes.size, sizes.dtype
        G, row, number = len(sizes.cell.input_gates), H * size, self.number
        at, P = number * sizes.step, len(sizes.cell.parameters)
        steps = self._both(blocks) | {
            "x_step": self._columns * sizes.step, "x_row": self._columns * row,
            "pack": sizes.back.padded(H) * sizes.program.weighed * H, "d_fed": len(sizes.fed) * B * H,
            "kept": kept_values(sizes.program, "backward") * B * H,
            "layout": laid_out if sizes.back.padded(H) == H and readable_as_they_lie(sizes.program) else LAID_OUT_NOW,
            "d_output": d_output, "d_rest": 0, "d_rest_state": T * sizes.step,
            "d_states": Place(_D_STATES, len(sizes.cell.states) * at), "d_parameters": Place(_D_PARAMETERS, P * at),
            "d_fresh": Place(_D_FRESH, len(sizes.cell.states) * at) if sizes.resets else 0, "d_x": d_x, "d_r": d_r,
            "d_x_step": B * G * row, "d_x_row": G * row, "d_beside_step": sizes.step, "d_beside_row": row,
        }  # fmt: skip
        for k in range(len(sizes.cell.inputs)):
            steps[f"d_beside{k}"] = Place(gradients + form.num_layers * sizes.each + k, T * at)
        for k in range(len(apart_slots(sizes.program))):
            steps[f"x{k}"] = self._sums.on((len(sizes.program.columns) + k) * row)
        calls = [(sizes.back, steps)]
        own = gradients + number * sizes.each
        for k, p in enumerate(sizes.program.products):
            if p.reduces:
                continue
            if p.computed:
                source = {"x": self._fed.on(sizes.fed.index(k) * T * sizes.step), "before": 0}
            else:
                source = {"x": self.sequences[p.state], "before": 1, "first": Place(blocks.states + p.state, at)}
                if sizes.resets:
                    source |= {"restarts": Place(blocks.mask, 0), "fresh": Place(blocks.fresh + p.state, at)}
            source |= {"x_step": sizes.step, "x_row": row, "d_row": len(sizes.program.columns) * row}
            for first, count in _consecutive(p.gates):
                compiled, values = of_weights(dtype, T, B, count * H, H)
                values |= source | {
                    "d": d_r.on((p.first + first) * row), "weight": Place(own + 1, p.gates[first] * H * row),
                    "bias": Place(own + 3, p.gates[first] * row) if form.bias else 0,
                }  # fmt: skip
                calls.append((compiled, values))
        compiled, values = of_weights(dtype, T, B, G * H, self._I)
        apart = form.bias and not sizes.shape.ADDITIVE
        calls.append((compiled, values | self._x_steps | {
            "d": d_x, "d_row": G * row, "x": self._x, "before": 0, "weight": Place(own, 0),
            "bias": Place(own + 2, 0) if apart else 0,
        }))  # fmt: skip
        compiled, values = of_input(dtype, T * B, G * H, self._I, laid_out)
        weight = Place(blocks.weights + number * sizes.each, 0)
        return [*calls, (compiled, values | {"d": d_x, "weight": weight, "d_x": d_input})]


def _consecutive(gates: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of gates that follow each other: the first one's place, and how many."""
    begins = [k for k, gate in enumerate(gates) if not k or gate != gates[k - 1] + 1]
    return [(k, end - k) for k, end in zip(begins, [*begins[1:], len(gates)], strict=True)]

"""The weights of layers, as loops that run whole layers read them: of which shapes, and without gaps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.loops.directions import plain
from gatefuse.kernels.task import Form


def weight_shapes(cell: Cell, form: Form, I: int, H: int) -> tuple[tuple[int, ...], ...]:
    """Of a direction's weights."""
    N, M = len(cell.input_gates) * H, len(cell.recurrent_gates) * H
    biases = ((N,), (M,)) if form.bias else ()
    return (N, I), (M, H), *biases, *((H,) for _ in cell.parameters)


def dense(
    cell: Cell, form: Form, weights: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], x: Tensor
) -> list[Tensor]:
    """The weights of each layer and direction in turn, without gaps.

    Raises:
        ValueError: one has another shape.
        RuntimeError: one has another dtype or device.
    """
    found, on_cpu = [], x.is_cpu
    for k, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        if weight.shape != shape:
            raise ValueError(f"{_name(cell, form, k)} must have shape {shape}. Got {tuple(weight.shape)}.")
        # a CPU has no number, and a device is slow to compare
        if weight.dtype != x.dtype or (not weight.is_cpu if on_cpu else weight.device != x.device):
            what, here = f"{weight.dtype} on {weight.device}", f"{x.dtype} on {x.device}"
            raise RuntimeError(f"{_name(cell, form, k)} must be {here}, as x is. Got {what}.")
        found.append(weight if weight.is_contiguous() and not weight.is_neg() else plain(weight))
    return found


def _name(cell: Cell, form: Form, k: int) -> str:
    """What weight number k is called."""
    linear = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][: form.each]
    names = [*linear, *(f"parameter {name}" for name in cell.parameters)]
    return names[k % len(names)]

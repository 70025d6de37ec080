"""Buffers of a loop, by name and shape: what it fills, and what it keeps for its backward."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.per_cell import per_cell
from gatefuse.kernels.equations.program import computed_products


def buffer_shapes(
    cell: Cell, T: int, B: int, W: int, save: bool, all_states: bool, whole: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of sequence_forward's rest, saved and fed; W as in loops/inputs.py.

    What is saved are the columns' sums, and with ``whole``, where nobody keeps the input's product, also the slots that
    are x alone.
    """
    rest, saved, fed = _counts(cell, save, all_states, whole)
    return (rest, T, B, W), (saved, T, B, W), (fed, T if save else min(T, 1), B, W)


@per_cell
def _counts(cell: Cell, save: bool, all_states: bool, whole: bool) -> tuple[int, int, int]:
    """How many sequences rest, saved and fed are."""
    program = cell.program
    keep = save or all_states or any(p.state > 0 for p in program.products)
    apart = sum(slot.column < 0 for slot in program.slots) if whole else 0
    saved = len(program.columns) + apart if save else 0
    return len(cell.states) - 1 if keep else 0, saved, len(computed_products(cell))


def saved_layout(sums: Tensor, W: int) -> Tensor:
    """What the loops on a CPU save, (T, B, columns * W), in saved's form, (columns, T, B, W)."""
    return sums.unflatten(2, (-1, W)).permute(2, 0, 1, 3)


class Forward(NamedTuple):
    """output (T, B, W), rest (S - 1, T, B, W) or empty, finals (S, B, W), saved and fed for the backward or empty."""

    output: Tensor
    rest: Tensor
    finals: Tensor
    saved: Tensor
    fed: Tensor

    def result(self) -> Forward:
        """With finals in the dtype of the output."""
        dtype = self.output.dtype
        return self if self.finals.dtype == dtype else self._replace(finals=self.finals.to(dtype))


class Upstream(NamedTuple):
    """Gradients of a forward's output, rest and finals; None of those of which there is none."""

    output: Tensor
    rest: Tensor | None
    finals: Tensor | None


class Backward(NamedTuple):
    """What the steps backward yield: gradients of x, of the columns (T, B, columns * W), and, in float32, of the states
    (S, B, W), the parameters (P, B, W) and fresh (S, B, W) or None."""

    x: Tensor
    r: Tensor
    states: Tensor
    parameters: Tensor
    fresh: Tensor | None


class Gradients(NamedTuple):
    """Gradients of a sequence's x, states, weight, bias, parameters and fresh, and of the input's weight and bias; None
    of what isn't there or isn't wanted."""

    x: Tensor | None
    states: Tensor
    weight: Tensor
    bias: Tensor | None
    parameters: Tensor
    fresh: Tensor | None
    input_weight: Tensor | None = None
    input_bias: Tensor | None = None

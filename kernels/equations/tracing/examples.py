"""Examples that a trace runs on: values of a state's shape, in which each of a cell's sizes has units of its own.

So a value's shape tells its size, and two of different sizes that meet are seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatefuse.kernels.equations.sizes import HIDDEN

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell

SHAPE = (2, 3)  # samples, and units of the states that have hidden_size

Shape = tuple[int, ...]


def shapes(cell: Cell) -> dict[Shape, str]:
    """The size that a shape stands for, of those of a cell."""
    names = HIDDEN, *[size for size, _ in cell.declaration.sizes]
    return {(SHAPE[0], SHAPE[1] + k): size for k, size in enumerate(names)}


def shape_of(cell: Cell, name: str) -> Shape:
    """The shape of a gate, state, parameter or input of that name."""
    size = cell.size_of.get(name, HIDDEN)
    return next(shape for shape, each in shapes(cell).items() if each == size)


def example(dtype: torch.dtype, shape: Shape = SHAPE) -> Tensor:
    """Values for a trace, which come from no generator of random numbers."""
    return torch.linspace(0.1, 0.9, shape[0] * shape[1], dtype=dtype, device="cpu").view(shape)


def met(cell: Cell, tensors: Iterable[Tensor]) -> list[str]:
    """The sizes of tensors, each once."""
    known = shapes(cell)
    return list(dict.fromkeys(known[tuple(t.shape)] for t in tensors if tuple(t.shape) in known))

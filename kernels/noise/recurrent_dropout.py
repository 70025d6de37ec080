"""Recurrent dropout: in training, what the recurrent weights multiply lacks units at random.

Source: Y. Gal and Z. Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent Neural Networks (2016,
arXiv:1512.05287), with one mask for all gates; anew in each step, T. Moon et al., RNNDROP (2015).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.equations.facts import untranslatable, vector_sizes
from gatefuse.kernels.equations.sizes import HIDDEN
from gatefuse.kernels.noise.noisy_cell import Noise, NoisyCell, checked_probability

_NAME = "recurrent_dropout"


def recurrent_dropout(cell: str | Cell, p: float, *, each_step: bool = False) -> Cell:
    """The cell, whose recurrent products lack units at random in training: ``recurrent_dropout("lstm", 0.25)``.

    In training what R multiplies loses each unit with probability p, and what is left is divided by 1 - p; the same
    units for all gates of a sample and, as Gal and Ghahramani have it, in all steps of its sequence. They are drawn
    anew in each call, layer and direction. In eval mode it is the cell itself. Parameters are the cell's own. A layer
    draws from torch's generator of its device, so that ``torch.manual_seed`` repeats it, by every driver alike.

    Args:
        cell: a cell, or the name of one that gatefuse ships.
        p: the probability, from 0 on and below 1.
        each_step: whether units are drawn anew in each step, too.

    Returns:
        A cell named ``recurrent_dropout_`` and the cell's name.

    Raises:
        TypeError: p is no number, or each_step no bool; or what find_cell raises.
        ValueError: p is out of its range; the cell has no recurrent products, is one with such dropout, or has sizes
            and equations that can't be made into code; or what find_cell raises.
    """
    if not isinstance(each_step, bool):
        raise TypeError(f"each_step must be a bool. Got {each_step!r}.")
    return dropped(checked_probability("p", p), each_step, find_cell(cell))


def dropped(p: float, each_step: bool, cell: Cell) -> Cell:
    """As recurrent_dropout."""
    if not cell.recurrent_gates:
        raise ValueError(f"recurrent_dropout must be given a cell with recurrent products. Got {cell.name}, without.")
    if any(noise.name.startswith(_NAME) for noise in cell.noise):
        raise ValueError(f"recurrent_dropout must act on a cell once. Got {cell.name}.")
    if not p:
        return NoisyCell(_NAME, cell, (), _unchanged, (dropped, (p, each_step)))
    multiplied = _multiplied(cell)
    names = {size: _NAME if size == HIDDEN else f"{_NAME}_{size}" for size in multiplied.values()}
    noise = tuple([Noise(name, 1 - p, 1 / (1 - p), each_step, size) for size, name in names.items()])
    change = partial(_change_by_gate, tuple([(gate, names[size]) for gate, size in multiplied.items()]))
    return NoisyCell(_NAME, cell, noise, change if cell.size_of else _change, (dropped, (p, each_step)))


def _multiplied(cell: Cell) -> dict[str, str]:
    """By recurrent gate, the size of what R multiplies for it.

    Raises:
        ValueError: the cell has several, and equations that don't show it.
    """
    if not cell.size_of:
        return dict.fromkeys(cell.recurrent_gates, HIDDEN)
    if why := untranslatable(cell.serial):
        raise ValueError(
            f"recurrent_dropout must be given a cell that code can be made of, where it has sizes. "
            f"Got {cell.name}: {why}."
        )
    return dict(zip(cell.recurrent_gates, vector_sizes(cell.serial), strict=True))


def _change(equations: Callable[..., Any], training: bool) -> Callable[..., Any]:
    def in_training(x, R, *states, **named):
        return equations(x, R._scaled(x._beside["recurrent_dropout"]), *states, **named)

    return in_training if training else _unchanged(equations, training)


def _change_by_gate(
    by_gate: tuple[tuple[str, str], ...], equations: Callable[..., Any], training: bool
) -> Callable[..., Any]:
    # a tuple, as equations may call something by the name of a method that changes a dict, torch.add for one
    def in_training(x, R, *states, **named):
        by = {gate: x._beside[name] for gate, name in by_gate}
        return equations(x, R._scaled_by_gate(by, x._whole), *states, **named)

    return in_training if training else _unchanged(equations, training)


def _unchanged(equations: Callable[..., Any], training: bool) -> Callable[..., Any]:
    def as_they_are(x, R, *states, **named):
        return equations(x, R, *states, **named)

    return as_they_are

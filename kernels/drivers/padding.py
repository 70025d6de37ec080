"""Padding, which is what lies beyond the ends of samples, kept out of all products: there zero times not-a-number is
none, and a product sums over the samples.

Beyond an end x becomes zero. A sample of no steps has nothing but first states: the loop runs from the cell's own in
their place, and those that were given are the final ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.task import Outcome, Task


def inputs_within(x: Tensor, lengths: Tensor) -> Tensor:
    """x (T, B, I), zero beyond the ends; lengths are on its device."""
    return torch.where((torch.arange(x.shape[0], device=x.device)[:, None] < lengths).unsqueeze(2), x, 0.0)


# Of inputs beside the gates a zero could be divided by; this is a fair score, a fair time and a fair mask.
_HARMLESS = 0.5


def beside_within(inputs: Sequence[Tensor], lengths: Tensor, T: int) -> tuple[Tensor, ...]:
    """Inputs beside the gates, (..., T or 1, B or 1, H or 1), harmless beyond the ends; lengths are on their device."""
    if not inputs:
        return ()
    live = (torch.arange(T, device=lengths.device)[:, None] < lengths).unsqueeze(2)
    some = live[:1]
    return tuple([torch.where(live if a.shape[-3] == T else some, a, _HARMLESS) for a in inputs])


def states_within(cell: Cell, states: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, ...]:
    """States (..., B, H), the cell's own first ones where a sample has no step."""
    empty = (lengths == 0).unsqueeze(1)
    return tuple([torch.where(empty, first, s) for s, first in zip(states, cell.init, strict=True)])


def finals_given(states: Sequence[Tensor], finals: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, ...]:
    """Finals (..., B, H), the states that were given where a sample has no step."""
    empty = (lengths == 0).unsqueeze(1)
    return tuple([torch.where(empty, s, final) for s, final in zip(states, finals, strict=True)])


def _within(task: Task) -> Task:
    assert task.lengths is not None
    states = states_within(task.cell, task.states, task.lengths)
    x, beside = inputs_within(task.x, task.lengths), beside_within(task.inputs, task.lengths, task.x.shape[0])
    return replace(task, x=x, states=states, inputs=beside, within=True)


def spared(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """A driver's run, of a task and more, that sees nothing of the padding, unless the task is ``within`` already."""

    @wraps(run)
    def spare(task: Task, *more: str) -> Outcome:
        if task.lengths is None or task.within:
            return run(task, *more)
        sequences, finals = run(_within(task), *more)
        return Outcome(sequences, finals_given(task.states, finals, task.lengths))

    return spare


def both_spared(run_both: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """As spared, for a driver's run_both."""

    @wraps(run_both)
    def spare(tasks: tuple[Task, Task], *more: str) -> Outcome:
        first, second = tasks
        if first.lengths is None or first.within:
            return run_both(tasks, *more)
        sequences, finals = run_both((_within(first), _within(second)), *more)
        states = [torch.cat(pair, -1) for pair in zip(first.states, second.states, strict=True)]
        return Outcome(sequences, finals_given(states, finals, first.lengths))

    return spare

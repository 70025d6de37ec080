"""float16 and bfloat16 for drivers that compute in float32: a task is widened, and its results are rounded once.

So no state is rounded from step to step, and gradients are summed in float32, as in the kernels for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps

import torch
from torch import Tensor

from gatefuse.kernels.task import Outcome, Task, Weights

HALVES = (torch.float16, torch.bfloat16)


def widened(run: Callable[[Task], Outcome]) -> Callable[[Task], Outcome]:
    """A driver's run, which is given float32 for tasks in 16 bits."""

    @wraps(run)
    def run_widened(task: Task) -> Outcome:
        dtype = task.x.dtype
        if dtype not in HALVES:
            return run(task)
        sequences, finals = run(_wide(task))
        return Outcome(rounded(sequences, dtype), rounded(finals, dtype))

    return run_widened


def rounded(values: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Values in that dtype."""
    return tuple([value.to(dtype) for value in values])


def _wide(task: Task) -> Task:
    def wide(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return rounded(values, torch.float32)

    given = task.weights
    weights = Weights(
        given.input.float(),
        given.recurrent.float(),
        None if given.input_bias is None else given.input_bias.float(),
        None if given.recurrent_bias is None else given.recurrent_bias.float(),
        wide(given.parameters),
    )
    fresh = None if task.fresh is None else wide(task.fresh)
    states, inputs = wide(task.states), wide(task.inputs)
    return replace(task, x=task.x.float(), states=states, weights=weights, fresh=fresh, inputs=inputs)

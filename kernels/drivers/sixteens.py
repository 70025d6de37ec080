"""Tasks for kernels, which run hidden units in sixteens: spare units fill an H that is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

from torch import Tensor

from gatefuse.kernels.loops.registry import KERNELS
from gatefuse.kernels.loops.triton.spare_units import padded, wider_weights
from gatefuse.kernels.spare_units import wide
from gatefuse.kernels.task import Outcome, Task, Weights


def _wider(task: Task, W: int) -> Task:
    given = task.weights
    biases = (
        [] if given.input_bias is None or given.recurrent_bias is None else [given.input_bias, given.recurrent_bias]
    )
    linear = [given.input, given.recurrent, *biases]
    found = wider_weights(task.cell, [*linear, *given.parameters], bool(biases), W)
    two = found[2:4] if biases else [None, None]
    weights = Weights(found[0], found[1], two[0], two[1], tuple(found[len(linear) :]))
    fresh = None if task.fresh is None else tuple([wide(s, W) for s in task.fresh])
    inputs = tuple([wide(a, W) if a.shape[-1] > 1 else a for a in task.inputs])
    states = tuple([wide(s, W) for s in task.states])
    return replace(task, states=states, weights=weights, fresh=fresh, inputs=inputs)


def in_sixteens(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """A driver's run, of a task by a loop; kernels are given units in sixteens."""

    @wraps(run)
    def run_padded(task: Task, loop: str) -> Outcome:
        H = task.weights.recurrent.shape[1]
        if loop not in KERNELS or (W := padded(task.cell, H)) == H:
            return run(task, loop)
        sequences, finals = run(_wider(task, W), loop)
        return Outcome(tuple([s[..., :H] for s in sequences]), tuple([s[..., :H] for s in finals]))

    return run_padded


def both_in_sixteens(run_both: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """As in_sixteens, for a driver's run_both, whose directions lie side by side."""

    @wraps(run_both)
    def run_padded(tasks: tuple[Task, Task], loop: str) -> Outcome:
        H = tasks[0].weights.recurrent.shape[1]
        if loop not in KERNELS or (W := padded(tasks[0].cell, H)) == H:
            return run_both(tasks, loop)
        sequences, finals = run_both((_wider(tasks[0], W), _wider(tasks[1], W)), loop)

        def narrow(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple([v.unflatten(-1, (2, W))[..., :H].flatten(-2) for v in values])

        return Outcome(narrow(sequences), narrow(finals))

    return run_padded

"""The oracle: a Python loop over the equations as they were written, differentiated by autograd.

Runs everywhere, in any floating dtype, as often differentiable as wanted. The input product is one product before the
loop.
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from gatefuse.kernels.cell import Gates, Recurrence
from gatefuse.kernels.drivers import Outcome, Request, Task

name = "eager"


def refusal(request: Request) -> str:
    """Never refuses."""
    return ""


def run(task: Task) -> Outcome:
    """Loop over the steps; see Task and Outcome for shapes."""
    cell, weights = task.cell, task.weights
    x = linear(task.x, weights.input, weights.input_bias)
    R = Recurrence(cell.gates, weights.recurrent, weights.recurrent_bias)
    parameters = dict(zip(cell.parameters, weights.parameters, strict=True))
    restarts, live = task.restarts(), task.live()

    wanted = len(cell.states) if task.all_states else 1
    columns: list[list[torch.Tensor]] = [[] for _ in range(wanted)]
    states = task.states
    for t in task.order:
        before = states
        if restarts is not None:
            at = restarts[t].unsqueeze(1)
            states = tuple(torch.where(at, first, s) for first, s in zip(cell.init, states, strict=True))
        states = cell.step(Gates(cell.gates, x[t]), R, states, parameters)
        if live is not None:
            at = live[t].unsqueeze(1)
            states = tuple(torch.where(at, new, old) for new, old in zip(states, before, strict=True))
            for column, state in zip(columns, states, strict=False):
                column.append(torch.where(at, state, 0.0))
        else:
            for column, state in zip(columns, states, strict=False):
                column.append(state)

    if not columns[0]:
        return Outcome(tuple(x.new_empty(0, *s.shape) for s in states[:wanted]), states)
    if task.reverse:
        columns = [column[::-1] for column in columns]
    return Outcome(tuple(torch.stack(column) for column in columns), states)

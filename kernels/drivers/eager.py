"""The oracle: a Python loop over the equations as they were written, differentiated by autograd.

Runs everywhere, in any floating dtype, as often differentiable as wanted. The input product is one product before the
loop.
"""

from __future__ import annotations

from gatefuse.kernels.drivers.blocks import blocks
from gatefuse.kernels.drivers.padding import spared
from gatefuse.kernels.loops.eager import loop
from gatefuse.kernels.task import Outcome, Request, Task

name = "eager"


def refusal(request: Request) -> str:
    """Never refuses."""
    return ""


@spared
def run(task: Task) -> Outcome:
    """Loop over the steps; see Task and Outcome for shapes."""
    weights, live = task.weights, task.live()
    sequences, finals = loop(
        task.cell,
        blocks(task),
        task.states,
        weights.recurrent,
        weights.recurrent_bias,
        weights.parameters,
        task.restarts(),
        None if task.resets is None else task.fresh_states(),
        live,
        task.reverse,
        len(task.cell.states) if task.all_states else 1,
    )
    return Outcome(task.end(sequences, live), finals)

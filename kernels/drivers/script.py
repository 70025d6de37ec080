"""A TorchScript loop of the generated equations: ATen operators alone, no Python between the steps.

For those who ask for it: torch has deprecated TorchScript, so nothing picks this driver by itself and nothing is
scripted before it is first run. A scripted loop saves into a file that runs without Python.
"""

from __future__ import annotations

from typing import Any

import torch

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import Outcome, Request, Task
from gatefuse.kernels.per_cell import per_cell
from gatefuse.kernels.torchscript import torchscript_source
from gatefuse.kernels.translatable import untranslatable

name = "script"


def refusal(request: Request) -> str:
    """Refuses cells that can't be translated and sequences of no steps."""
    if request.T == 0:
        return "a sequence of no steps has nothing to loop over"
    return untranslatable(request.cell.serial)


def run(task: Task) -> Outcome:
    """Run the scripted loop; see Task and Outcome for shapes."""
    weights = task.weights
    args = (
        task.x,
        list(task.states),
        weights.input,
        weights.recurrent,
        weights.input_bias,
        weights.recurrent_bias,
        list(weights.parameters),
        task.reverse,
        task.all_states,
    )
    unit = scripted(task.cell)
    if task.lengths is None and task.resets is None:
        sequences, finals = unit.loop(*args)
    else:
        sequences, finals = unit.masked_loop(*args, task.restarts(), list(task.anew() or ()), task.live())
    return Outcome(tuple(sequences), tuple(finals))


@per_cell
def scripted(cell: Cell) -> Any:
    """The scripted functions ``loop`` and ``masked_loop`` of a cell; see gatefuse.source(cell, "torchscript")."""
    return torch.jit.CompilationUnit(torchscript_source(cell.program))

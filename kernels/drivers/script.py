"""A TorchScript loop of the generated equations: ATen operators alone, no Python between the steps.

For those who ask for it: torch has deprecated TorchScript, so nothing picks this driver by itself and nothing is
scripted before it is first run. A scripted loop saves into a file that runs without Python. Where somebody else keeps
what autograd saves, as within torch.utils.checkpoint, the eager loop runs in its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.per_cell import per_cell
from gatefuse.kernels.codegen.torchscript import torchscript_source
from gatefuse.kernels.drivers import eager
from gatefuse.kernels.drivers.blocks import behind
from gatefuse.kernels.drivers.padding import spared
from gatefuse.kernels.drivers.saving import saved_elsewhere
from gatefuse.kernels.equations.facts import untranslatable
from gatefuse.kernels.task import Outcome, Request, Task

name = "script"


def refusal(request: Request) -> str:
    """Refuses cells that can't be translated and sequences of no steps."""
    if request.T == 0:
        return "a sequence of no steps has nothing to loop over"
    return untranslatable(request.cell.serial)


@spared
def run(task: Task) -> Outcome:
    """Run the scripted loop; see Task and Outcome for shapes."""
    # TorchScript saves other tensors once it has seen a loop run, and hands on no exception by which one stops it.
    if saved_elsewhere():
        return eager.run(task)
    weights = task.weights
    x = behind(task.x, task)
    args = (
        x,
        list(task.states),
        weights.input,
        weights.recurrent,
        weights.input_bias,
        weights.recurrent_bias,
        list(weights.parameters),
        task.reverse,
        task.all_states,
    )
    unit = scripted(task.cell, _wanted(x, task))
    if task.lengths is None and task.resets is None:
        sequences, finals = unit.loop(*args)
    else:
        fresh = [] if task.resets is None else list(task.fresh_states())
        sequences, finals = unit.masked_loop(*args, task.restarts(), fresh, task.live())
    return Outcome(tuple(sequences), tuple(finals))


def _wanted(x: Tensor, task: Task) -> tuple[bool, ...]:
    """Which of what a loop is given want gradients, x with what lies behind it; empty where none does."""
    tensors = x, *task.states, *task.weights[:4], *task.weights.parameters, *(task.fresh or ())
    wanted = tuple([t is not None and t.requires_grad for t in tensors])
    return wanted if torch.is_grad_enabled() and any(wanted) else ()


@per_cell
def scripted(cell: Cell, wanted: tuple[bool, ...]) -> Any:
    """The scripted functions ``loop`` and ``masked_loop`` of a cell; see gatefuse.source(cell, "torchscript").

    One for each choice of what wants gradients: what TorchScript has compiled where there were some saves its inputs
    for them in every later call, which those of torch.inference_mode refuse; and where other inputs wanted them than
    now, as a weight that was frozen, it may give these none, in silence.
    """
    return torch.jit.CompilationUnit(torchscript_source(cell.program))

"""A Python loop of torch operators generated from the equations, with a backward derived from them.

Runs wherever torch does, without a compiler, in float64 and float32, and 16 bits by way of float32. Beside the eager
loop, whose gradients autograd puts together step by step, all of the backward that doesn't depend on later steps is
computed for many steps at once.
"""

from __future__ import annotations

import torch

from gatefuse.kernels.drivers import common
from gatefuse.kernels.drivers.half_precision import HALVES, widened
from gatefuse.kernels.equations.facts import untranslatable
from gatefuse.kernels.task import Outcome, Request, Task

name = "aten"
keeps = True

# On two cores of an AMD EPYC, float32, peephole_lstm and gru_reset_first: at 8 steps the forward loses, at 16 it gains;
# at B * H 2048 it gains, and at 4096 some shapes lose.
_FEW, _LARGE = 16, 2048


def refusal(request: Request) -> str:
    """Refuses rare dtypes and cells that can't be translated."""
    if request.dtype not in (torch.float32, torch.float64, *HALVES):
        return f"it computes in float32 and float64, not in {request.dtype}"
    return untranslatable(request.cell.serial)


def unwise(request: Request) -> str:
    """Why auto had better not take it where it can run; "" where there is no reason."""
    if torch.compiler.is_compiling():  # which would make a graph for each answer; the operator asks when it runs
        return ""
    if request.T < _FEW:
        return "in so few steps it doesn't make up for what it costs to begin"
    if request.B * request.H > _LARGE:
        return "at this size products take nearly all of the time, which are the same in the eager loop"
    return ""


@widened
def run(task: Task) -> Outcome:
    """Run the loop; see Task and Outcome for shapes."""
    return common.run(task, "aten")

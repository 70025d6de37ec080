"""All steps in one Triton kernel: each program owns all recurrent weights and a tile of the batch; for every cell.

For hidden sizes whose weights fit into a multiprocessor's shared memory. Runs on a GPU, in float16, bfloat16 and, where
torch.backends.cudnn.allow_tf32 lets the matrix unit round its inputs, in float32; and in Triton's interpreter on a CPU,
for tests.
"""

from __future__ import annotations

from gatefuse.kernels.drivers import common
from gatefuse.kernels.equations.facts import values_of_a_unit
from gatefuse.kernels.runtime.device import limits
from gatefuse.kernels.task import Outcome, Request, Task
from gatefuse.kernels.tiling.tiles import block_shared_bytes

name = "block"
keeps = True

_LARGEST = 128


def refusal(request: Request) -> str:
    """Refuses what common.whole_refusal refuses, and weights that shared memory can't hold."""
    if why := common.whole_refusal(request):
        return why
    if request.H > _LARGEST:
        return f"one program holds all recurrent weights, so H must be at most {_LARGEST}, not {request.H}"
    if request.device.type == "cpu":
        return ""
    needed = block_shared_bytes(request.cell.program, request.H, request.dtype.itemsize)
    if needed > (held := limits(request.device).shared):
        return f"its kernels take at least {needed:,} bytes of shared memory, and a program may have {held:,}"
    return ""


def both_refusal(request: Request) -> str:
    """Refuses more values a step of both than can be counted; their programs never meet."""
    return common.uncountable(request, 2 * values_of_a_unit(request.cell.serial))


def run(task: Task) -> Outcome:
    """Run all steps in one kernel; see Task and Outcome for shapes."""
    return common.run(task, "block")


def run_both(tasks: tuple[Task, Task]) -> Outcome:
    """Run both directions of a layer in one kernel; see common.run_both."""
    return common.run_both(tasks, "block")

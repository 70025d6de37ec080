"""One matrix product a stage and one fused Triton kernel a step, forward and backward; for every cell.

Runs on a GPU, in float32, float16 and bfloat16, with the running states in float32; and in Triton's interpreter on a
CPU, for tests. Weight gradients are one large product after the loop. On a GPU, parts of a sequence whose shape comes a
second time are replayed as CUDA graphs; GATEFUSE_GRAPHS=0 in the environment forbids that.
"""

from __future__ import annotations

from gatefuse.kernels.drivers import common
from gatefuse.kernels.task import Outcome, Request, Task

name = "step"
keeps = True


def refusal(request: Request) -> str:
    """Refuses what common.refusal refuses."""
    return common.refusal(request)


def run(task: Task) -> Outcome:
    """Run the fused steps; see Task and Outcome for shapes."""
    return common.run(task, "step")

"""All steps in one Triton kernel of many programs, which share the recurrent weights among them; for every cell.

Each program keeps some units' weights in its shared memory for the whole sequence, and the programs meet at a barrier
in device memory once a stage. Runs on a GPU in float16, bfloat16 and, where torch.backends.cudnn.allow_tf32 lets the
matrix unit round its inputs, in float32; and in Triton's interpreter on a CPU, for tests, a stage at a launch.
"""

from __future__ import annotations

import torch

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import common
from gatefuse.kernels.equations.facts import products_of_a_step, values_of_a_unit
from gatefuse.kernels.loops.triton.spare_units import padded
from gatefuse.kernels.runtime.device import limits
from gatefuse.kernels.runtime.dynamo import constant
from gatefuse.kernels.runtime.requirement import triton_version
from gatefuse.kernels.task import Outcome, Request, Task
from gatefuse.kernels.tiling.tiles import MOST_SLICES, grid_backward_tiles, grid_shared_bytes, grid_tiles

name = "grid"
keeps = True


def refusal(request: Request) -> str:
    """Refuses what common.whole_refusal refuses, weights that shared memory can't hold, more programs than can run."""
    if why := common.whole_refusal(request) or _uncountable(request, 1):
        return why
    if request.device.type == "cpu":
        return ""
    if torch.version.hip and not _compiles_for_rocm():
        return "Triton before 3.7 does not compile its kernels for ROCm"
    return _refusal(request, 1)


def both_refusal(request: Request) -> str:
    """Refuses more programs of both directions than can run at once, and more values of both than can be counted."""
    return _uncountable(request, 2) or ("" if request.device.type == "cpu" else _refusal(request, 2))


def _uncountable(request: Request, directions: int) -> str:
    sums = MOST_SLICES * products_of_a_step(request.cell.serial) if request.needs_grad else 0
    return common.uncountable(request, directions * max(sums, values_of_a_unit(request.cell.serial)))


@constant  # torch.compile can't look into Triton
def _compiles_for_rocm() -> bool:
    return triton_version() >= (3, 7)


def _refusal(request: Request, directions: int) -> str:
    H = padded(request.cell, request.H)
    return _unfit(request.cell.serial, H, request.dtype.itemsize, request.device, request.needs_grad, directions)


@constant  # torch.compile can't follow the cutting of tiles
def _unfit(serial: str, H: int, itemsize: int, device: torch.device, needs_grad: bool, directions: int) -> str:
    """Whatever B is: the smallest tile of a batch is among those that are tried for any."""
    program = Cell.by_serial(serial).program
    held = limits(device)
    call = program, H, 1, itemsize, held, directions
    cut = grid_tiles(*call)
    needed = grid_shared_bytes(program, H, itemsize, cut)
    if needed > held.shared:
        return f"its kernels take at least {needed:,} bytes of shared memory, and a program may have {held.shared:,}"
    programs = directions * max(cut.units, grid_backward_tiles(*call).units if needs_grad else 0)
    if programs > held.programs:
        return f"its {programs} programs must all run at once, and the device has room for {held.programs}"
    return ""


def run(task: Task) -> Outcome:
    """Run all steps in one kernel; see Task and Outcome for shapes."""
    return common.run(task, "grid")


def run_both(tasks: tuple[Task, Task]) -> Outcome:
    """Run both directions of a layer in one kernel; see common.run_both."""
    return common.run_both(tasks, "grid")

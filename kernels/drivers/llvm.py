"""All steps in one call of machine code, which llvmlite makes of the equations for the processor at hand.

Runs on a CPU, in float32 and float64, for every cell that can be translated.
"""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec

import torch

from gatefuse.kernels.drivers import common
from gatefuse.kernels.equations.facts import untranslatable
from gatefuse.kernels.task import Outcome, Request, Task

name = "llvm"
keeps = True

# Steps in training that torch's own functions do faster, on an AMD EPYC: of one step of H 64 and one sample an LSTM took
# 0.5 of the time by torch's function for a step, and 0.7 by the Python loop.
_FEW = 1
_MACHINES = ("x86_64", "aarch64")

_HAS_LLVM = find_spec("llvmlite") is not None  # asked once, as torch.compile can't ask in torch 2.11


def refusal(request: Request) -> str:
    """Refuses other devices than CPUs, 16 bits, missing llvmlite, and cells that can't be translated."""
    if request.device.type != "cpu":
        return f"its code runs on a CPU, not on {request.device.type}"
    if request.dtype not in (torch.float32, torch.float64):
        return f"its code computes in float32 and float64, not in {request.dtype}"
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        here = f"{sys.platform}, {platform.machine()}"
        return f"its code is made for Linux, on {' and '.join(_MACHINES)}, and not for {here}"
    if not _HAS_LLVM:
        return "llvmlite is not installed"
    return untranslatable(request.cell.serial)


def unwise(request: Request) -> str:
    """Why auto had better not take it where it can run; "" where there is no reason."""
    if request.needs_grad and request.T <= _FEW and not torch.compiler.is_compiling():
        return "in so few steps it doesn't make up for what it costs to begin, where gradients are wanted"
    return ""


def run(task: Task) -> Outcome:
    """Run all steps in one call; see Task and Outcome for shapes."""
    return common.run_whole(task, "llvm")

"""All steps in one call of machine code, which llvmlite makes of the equations for the processor at hand.

Runs on a CPU, in float64 and float32, and 16 bits by way of float32, for every cell that can be translated.
"""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec

import torch

from gatefuse.kernels.cells.lstm import lstm
from gatefuse.kernels.drivers import common
from gatefuse.kernels.drivers.half_precision import HALVES, widened
from gatefuse.kernels.drivers.vendor import torch_rnn
from gatefuse.kernels.drivers.vendor.dispatch import onednn_has
from gatefuse.kernels.equations.facts import untranslatable
from gatefuse.kernels.task import Outcome, Request, Task

name = "llvm"
keeps = True

# Single steps that torch's own function trains sooner: of so many units at least, where samples are fewer than four,
# and of so many numbers of a state, B * H, at most. Of other cells it has no function. On an AMD EPYC it took with one
# sample, of an LSTM of H 256, 512 and 1024, 0.96, 0.69 and 0.68 of the time, and of H 64, or with 8 samples, 1.03 to
# 1.8 times; of a GRU 1.12, 0.93 and 0.8, and with 8 samples 1.4 to 1.6 times; of an RNN 0.8 to 0.6, and with 8 samples
# 0.9 at H 128 and 1.3 times at H 512.
_FEW, _SMALL_STEP = 4, {"lstm": (256, 0), "gru": (320, 0), "elman": (1, 2048), "elman_relu": (1, 2048)}

# Samples from which on oneDNN's LSTM in bfloat16 is faster, and the units up to which it trains faster too. On one core
# of an AMD EPYC, which has such instructions, it took of this driver's time with 20 to 64 samples 0.5 to 0.7 forward;
# in training 0.7 to 0.85 at H 64 to 512, and 1.1 to 1.3 at H 650 and 1024; with one sample 0.9 to 1.1 forward and 1.4
# to 1.9 in training.
_SAMPLES, _TRAINED = 8, 512
_MACHINES = ("x86_64", "aarch64")

# Asked once, as torch.compile can't ask in torch 2.11.
_HAS_LLVM, _MACHINE = find_spec("llvmlite") is not None, platform.machine()


def refusal(request: Request) -> str:
    """Refuses other devices than CPUs, rare dtypes, missing llvmlite, and cells that can't be translated."""
    if request.device.type != "cpu":
        return f"its code runs on a CPU, not on {request.device.type}"
    if request.dtype not in (torch.float32, torch.float64, *HALVES):
        return f"its code computes in float32 and float64, not in {request.dtype}"
    if sys.platform != "linux" or _MACHINE not in _MACHINES:
        here = f"{sys.platform}, {_MACHINE}"
        return f"its code is made for Linux, on {' and '.join(_MACHINES)}, and not for {here}"
    if not _HAS_LLVM:
        return "llvmlite is not installed"
    return untranslatable(request.cell.serial)


def unwise(request: Request) -> str:
    """Why auto had better not take it where it can run; "" where there is no reason."""
    if torch.compiler.is_compiling():
        return ""
    if _by_instructions(request):
        return "this processor multiplies bfloat16 itself, which torch's own loop has it do"
    if _small_step(request):
        return "in so small a step it doesn't make up for what it costs to begin, where gradients are wanted"
    return ""


def _by_instructions(request: Request) -> bool:
    """Whether torch's own loop, that is oneDNN's, multiplies bfloat16 as such, and is done before this one."""
    r = request
    if (
        r.dtype != torch.bfloat16
        or r.cell is not lstm
        or r.lengths
        or r.resets
        or r.all_states
        or not onednn_has(r.dtype)
    ):
        return False
    return r.B >= _SAMPLES and (not r.needs_grad or r.H <= _TRAINED)


def _small_step(request: Request) -> bool:
    """Whether torch's own function trains one step, and is done before this one."""
    r = request
    if r.T != 1 or not r.needs_grad or r.lengths or r.resets or r.all_states or not torch_rnn.knows(r.cell):
        return False
    units, numbers = _SMALL_STEP[r.cell.name]
    return (r.B < _FEW and units <= r.H) or numbers >= r.B * r.H


@widened
def run(task: Task) -> Outcome:
    """Run all steps in one call; see Task and Outcome for shapes."""
    return common.run_whole(task, "llvm")

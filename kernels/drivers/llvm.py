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

# oneDNN's LSTM in bfloat16 is faster from so many samples or, forward, units on; in training up to so many units. On
# one core of an AMD EPYC, which has instructions for it, it took of this driver's time with 20 to 64 samples 0.5 to 0.7
# forward; in training 0.7 to 0.85 at H 64 to 512, and 1.1 to 1.3 at H 650 and 1024; with one sample 0.85 at H 256 and
# 0.95 to 1.1 below forward, and 1.4 to 1.9 in training. On two, of 32 samples, 1.3 and 1.6 at H 64, and 0.5 to 0.6 at
# H 256 and 512.
_SAMPLES, _UNITS, _TRAINED, _SHARED = 8, 256, 512, 128
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
    r = request
    if torch.compiler.is_compiling() or r.lengths or r.resets or r.all_states or not torch_rnn.knows(r.cell):
        return ""
    if r.cell is lstm and r.dtype == torch.bfloat16 and onednn_has(r.dtype) and _by_instructions(r):
        return "this processor multiplies bfloat16 itself, which torch's own loop has it do"
    if r.T == 1 and r.dtype in HALVES and r.cell is not lstm:
        return "a single step takes less time than to make the weights float32"
    if r.T == 1 and r.needs_grad and _small_step(r):
        return "in so small a step it doesn't make up for what it costs to begin, where gradients are wanted"
    return ""


def _by_instructions(request: Request) -> bool:
    """Whether oneDNN's LSTM in bfloat16 is done before this one."""
    several = request.B >= _SAMPLES and (request.H >= _SHARED or torch.get_num_threads() == 1)
    if request.needs_grad:
        return several and request.H <= _TRAINED
    return several or request.H >= _UNITS


def _small_step(request: Request) -> bool:
    """Whether torch's own function trains one step of that size before this one does."""
    units, numbers = _SMALL_STEP[request.cell.name]
    return (request.B < _FEW and units <= request.H) or numbers >= request.B * request.H


@widened
def run(task: Task) -> Outcome:
    """Run all steps in one call; see Task and Outcome for shapes."""
    return common.run_whole(task, "llvm")

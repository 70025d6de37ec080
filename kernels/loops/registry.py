"""The loops behind the operator by name, and a run of one of them."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from gatefuse.kernels.runtime.refused_launch import refused
from gatefuse.kernels.runtime.requirement import require_triton

KERNELS = ("step", "block", "grid")  # loops that launch Triton's
ON_CPU = ("aten", "llvm")  # loops that also know float64, and run one direction
LOOPS = (*ON_CPU, *KERNELS)
_MODULES = {"aten": "aten", "llvm": "llvm.loop"} | {name: f"triton.{name}" for name in KERNELS}


@cache
def loop_module(loop: str) -> ModuleType:
    """The module that has a loop's ``forward`` and ``backward``."""
    return import_module(f"gatefuse.kernels.loops.{_MODULES[loop]}")


def run_loop(loop: str, way: str, sequence: Any, *args: Any) -> Any:
    """A loop's forward or backward; by the step loop, which keeps the same buffers, where its kernel doesn't fit."""
    if loop in KERNELS:
        require_triton(f"the {loop} loop")
    run = getattr(loop_module(loop), way)
    if loop in ON_CPU:
        return run(sequence, *args)
    try:
        return run(sequence, *args)
    except Exception as error:
        if loop == "step" or not refused(error):
            raise
        _say_once(
            f"{sequence.cell.name}: the {loop} driver's {way} kernel does not fit, step runs in its place: {error}"
        )
        return getattr(loop_module("step"), way)(sequence, *args)


@cache
def _say_once(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)

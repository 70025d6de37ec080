"""python -m gatefuse.doctor: what this machine can run, and why not the rest."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import import_module

import torch

from gatefuse import __version__
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.drivers import DRIVERS
from gatefuse.kernels.plan import explain
from gatefuse.kernels.task import Request

_CELLS = ("lstm", "peephole_lstm")
_T, _B, _H = 32, 16, 64


def devices() -> list[torch.device]:
    """The CPU, and each device of the accelerator that torch sees."""
    found = [torch.device("cpu")]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None
        found += [torch.device(kind.type, index) for index in range(torch.accelerator.device_count())]
    return found


def report() -> Iterator[str]:
    """The lines to print."""
    yield f"gatefuse {__version__}"
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield f"torch {torch.__version__}"
    yield _triton()
    for device in devices():
        yield f"{device}: {_describe(device)}"
        for cell in _CELLS:
            yield from _drivers(device, cell)


def _triton() -> str:
    try:
        return f"triton {import_module('triton').__version__}"
    except Exception as error:  # a broken install fails in ways of its own, and is what a doctor is asked about
        return f"triton is missing: {type(error).__name__}: {error}"


def _describe(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    library = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {library}"


def _drivers(device: torch.device, cell: str) -> Iterator[str]:
    plan = explain(Request(find_cell(cell), device, torch.float32, _T, _B, _H, needs_grad=True))
    yield f"  {cell} (T {_T}, B {_B}, H {_H}, float32): auto takes {plan.driver}, {plan.reason}"
    for name in DRIVERS:
        yield f"    {name}: {plan.refused.get(name, 'runs')}"


if __name__ == "__main__":
    print(*report(), sep="\n")

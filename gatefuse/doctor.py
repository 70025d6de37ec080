"""python -m gatefuse.doctor: what this machine can run, and why not the rest; kernels are tried before it says so."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import import_module

import torch

from gatefuse import __version__, probe
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.loops.registry import KERNELS
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
        kernels = [(cell, name) for cell in _CELLS for name in KERNELS if _takes(device, cell, name)]
        failed = probe.failures(device, kernels)
        for cell in _CELLS:
            yield from _drivers(device, cell, failed)


def _triton() -> str:
    try:
        return f"triton {import_module('triton').__version__}"
    except Exception as error:  # a broken install fails in ways of its own, and is what a doctor is asked about
        if not isinstance(error, ModuleNotFoundError) or error.name != "triton":
            return f"triton does not work: {type(error).__name__}: {error}"
    if not torch.cuda.is_available():
        return "triton is missing, and of no use without a GPU"
    return "triton is missing: pip install 'gatefuse[triton]', unless torch's build for this GPU brings its own"


def _describe(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    library = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {library}"


def _request(device: torch.device, cell: str) -> Request:
    return Request(find_cell(cell), device, torch.float32, _T, _B, _H, needs_grad=True)


def _takes(device: torch.device, cell: str, name: str) -> bool:
    return not driver(name).refusal(_request(device, cell))


def _drivers(device: torch.device, cell: str, failed: dict[tuple[str, str], str]) -> Iterator[str]:
    plan = explain(_request(device, cell))
    yield f"  {cell} (T {_T}, B {_B}, H {_H}, float32): auto takes {plan.driver}, {plan.reason}"
    for name in DRIVERS:
        why = failed.get((cell, name), "")
        yield f"    {name}: {f'fails: {why}' if why else plan.refused.get(name, 'runs')}"


if __name__ == "__main__":
    for line in report():
        print(line, flush=True)

"""Trial calls of drivers, tiny and in a process of their own: whether kernels run where a driver refuses nothing.

What this Triton, this device and its libraries make of a kernel shows when it runs, and a crash ends its process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence

import torch

from gatefuse.models.layers.recurrent import Recurrent

SECONDS = 300  # that a process may take; compiling all kernels takes a GPU's machine most of a minute
_T, _B, _H = 2, 2, 16
_MARK = "gatefuse.probe: "  # before what is said, since libraries print too
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gatefuse.probe import main; main(*sys.argv[2:])"
)


def failures(device: torch.device, calls: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """What goes wrong with each call, forward and backward; "" where nothing does.

    Args:
        calls: names of a cell and of a driver each.
    """
    left = list(calls)
    found: dict[tuple[str, str], str] = {}
    while left:
        said, end = _process(device, left)
        if len(said) < len(left) and not any(said):  # it ended in the midst of the next
            said.append(end)
        found.update(zip(left, said, strict=False))
        left = left[len(said) :]
    return found


def main(device: str, calls: str) -> None:
    """Try calls and print what went wrong with each, up to the first that fails: a device may answer no more."""
    for cell, driver in json.loads(calls):
        why = _failure(torch.device(device), cell, driver)
        print(f"{_MARK}{json.dumps(why)}", flush=True)
        if why:
            return


def _failure(device: torch.device, cell: str, driver: str) -> str:
    try:
        layer = Recurrent(cell, _H, _H, driver=driver, device=device)
        x = torch.randn(_T, _B, _H, device=device, requires_grad=True)
        output, _ = layer(x)
        output.sum().backward()
        assert x.grad is not None
        # Reading waits for the device, which says only then what went wrong.
        return "" if bool((output.isfinite().all() & x.grad.isfinite().all()).item()) else "its results are not finite"
    except Exception as error:  # whatever it is, it is what was asked
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _process(device: torch.device, calls: Sequence[tuple[str, str]]) -> tuple[list[str], str]:
    """What a process says of one call after another, and how it ended."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(device), json.dumps(list(calls))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    try:
        output, errors = process.communicate(timeout=SECONDS)
        end = _end(process.returncode, errors)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        end = f"it did not end within {SECONDS} s"
    said = [json.loads(line.removeprefix(_MARK)) for line in output.splitlines() if line.startswith(_MARK)]
    return said, end


def _end(code: int, errors: str) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    last = (errors.strip().splitlines() or ["it said nothing"])[-1]
    return f"its process ended with {code}: {last}"

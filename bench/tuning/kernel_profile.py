"""A profile of the kernels that a time loop is: what their warps wait for, where a machine lets its counters be read.

``ncu`` counts, at the clocks that the GPU has; where it isn't there or counts nothing, torch's profiler says how long
each kernel took. Which kernels, is PROFILED: those of which most is to be known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gatefuse.bench.gpu.jobs import Finished, execute
from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.bench.tuning.variant import Place
from gatefuse.kernels.loops.registry import loop_module

NAME = "profile.txt"
SECONDS = 45.0  # for all of it
STEPS = 32
# A loop at a place, and whether backward too.
PROFILED = (("grid", Place("lstm", 512, 64), True), ("block", Place("lstm", 128, 64), False))
_LAUNCHES = sum(1 + backward for _, _, backward in PROFILED)
_HERE = (sys.executable, "-m", "gatefuse.bench.tuning.kernel_profile")
# The first launches compile; those behind them, of the same kernels, are counted.
_NCU = (
    "ncu", "--clock-control", "none", "--set", "full", "--kernel-name", "regex:(grid|block)_(forward|backward)_kernel",
    "--launch-skip", str(_LAUNCHES), "--launch-count", str(_LAUNCHES), *_HERE, "--launch",
)  # fmt: skip
_COUNTED = "==PROF== Disconnected"
_SILENCE = 40.0


def write(
    folder: Path, head: str, seconds: float, execute: Callable[[Sequence[str], float, float], Finished] = execute
) -> str:
    """Profile in processes of their own, within so many seconds, and write the page; returns what is to be said.

    Args:
        head: the page's first line, of device and commit; one that begins so stays as it is.
    """
    path = folder / NAME
    if path.exists() and path.read_text(encoding="utf-8").startswith(head):
        return f"{path} is there"
    counted = execute(_NCU, seconds, _SILENCE)
    if counted.status == 0 and _COUNTED in counted.output:
        text = f"by ncu:\n{counted.output}"
    else:
        last = counted.output.strip().rpartition("\n")[2][:200] or "it said nothing"
        said = f"ncu ended with {counted.status}: {last}"
        timed = execute((*_HERE, "--times"), max(5.0, seconds - counted.seconds), _SILENCE)
        text = f"{said}\nby torch's profiler, which ended with {timed.status}:\n{timed.output}"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, f"{head}\n{text}")
    return f"{path}: {text.partition(chr(10))[0]}"


def launch() -> None:
    """Each kernel twice: all of them once, then once more."""
    import torch

    from gatefuse.bench.tuning.trial import make_inputs, make_upstream

    loops = []
    for name, place, backward in PROFILED:
        inputs = make_inputs(place, STEPS, torch.device("cuda"))
        loops.append((loop_module(name), inputs, make_upstream(inputs), backward))
    for _ in range(2):
        for loop, inputs, given, backward in loops:
            kept = loop.forward(inputs, True, False)
            if backward:
                loop.backward(inputs, kept, given)
        torch.cuda.synchronize()


def times() -> str:
    """A table of each kernel's time on the device."""
    from torch.profiler import ProfilerActivity, profile

    launch()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        launch()
    return found.key_averages().table(sort_by="cuda_time_total", row_limit=20)


if __name__ == "__main__":
    if "--times" in sys.argv:
        print(times())
    else:
        launch()

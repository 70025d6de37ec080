"""``python -m gatefuse.bench tune``: the variants on the GPU that is at hand, within a budget and unattended.

First all that is left is compiled ahead, by as many processes as there are cores: what doesn't fit has a row that says
so before the GPU is touched, and what fits lies in Triton's cache. Then one process after another measures the trials
in their order; one that hangs or breaks the device's context is ended, its trial gets a row, and the next goes on
behind it. Last comes a profile of the unchanged kernels.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gatefuse.bench.gpu.jobs import Finished, execute
from gatefuse.bench.measure.clocks import make_clock
from gatefuse.bench.measure.stamp import Stamp, take_stamp
from gatefuse.bench.plugin.progress import NOW
from gatefuse.bench.storage import tuning_log
from gatefuse.bench.storage.tuning_log import Log
from gatefuse.bench.tuning import compilation, kernel_profile, report
from gatefuse.bench.tuning import trial as trying
from gatefuse.bench.tuning.variant import Trial
from gatefuse.bench.tuning.variants import VARIANTS, trials
from gatefuse.kernels.runtime import debug

# Seconds without a word after which a trial hangs; it may have to compile two kernels and the eager loop's.
SILENCE = 60.0
# Below this many seconds nothing is begun.
_LEAST = 15.0
_BROKEN = 3  # exit status of a process whose device no longer answers

Execute = Callable[[Sequence[str], float, float], Finished]


def choose(only: Sequence[str], without: Sequence[str] = ()) -> list[Trial]:
    """The trials of some variants, all without ``only``, in their order.

    Raises:
        ValueError: no variant has that name.
    """
    names = [variant.name for variant in VARIANTS]
    if unknown := sorted({*only, *without} - set(names)):
        raise ValueError(f"a variant must be one of {', '.join(names)}. Got {unknown[0]}.")
    return [t for t in trials() if (not only or t.variant.name in only) and t.variant.name not in without]


def run(
    log: Log,
    chosen: Sequence[Trial],
    command: Sequence[str],
    budget: float,
    compiled: Callable[[Sequence[Trial]], Sequence[dict[str, Any]]],
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
    execute: Execute = execute,
) -> int:
    """Measure what the log doesn't hold yet; returns how many trials are left.

    Args:
        command: what measures the chosen trials in a process of its own; ``--budget=`` is added.
        compiled: rows of variant_resources for trials, those that may not be run with ``refused``.
    """
    began = clock()
    reopen = lambda: Log(log.path, log.stamp)  # noqa: E731 - the processes write rows
    left = [trial for trial in chosen if not log.holds(trying.key(trial))]
    refused = {_key(row): row["refused"] for row in compiled(left) if row["refused"]} if left else {}
    for trial in left:
        if why := refused.get(_key(trying.key(trial))):
            log.append({**trying.key(trial), "status": "refused", "note": why})
    say(f"{clock() - began:4.0f} s  {len(left)} trials are left, of which {len(refused)} may not be run")
    while left := [trial for trial in chosen if not reopen().holds(trying.key(trial))]:
        seconds = budget - (clock() - began)
        if seconds < _LEAST:
            break
        finished = execute([*command, f"--budget={seconds - _LEAST / 2:.0f}"], seconds, SILENCE)
        said = re.findall(rf"^{NOW}(.*)$", finished.output, re.MULTILINE)
        running = next((trial for trial in left if said and trial.title == said[-1]), None)
        say(f"{clock() - began:4.0f} s  {len(said)} trials were begun, the last: {said[-1] if said else 'none'}")
        if finished.status == 0 or (finished.status is None and not finished.silent):
            break
        if running is None:
            say(finished.output[-2000:])
            break
        if not (again := reopen()).holds(trying.key(running)):
            hung = finished.silent
            note = f"silent for {SILENCE:.0f} s" if hung else f"its process ended with {finished.status}"
            again.append({**trying.key(running), "status": "hung" if hung else "failed", "note": note})
    return sum(not reopen().holds(trying.key(trial)) for trial in chosen)


def _key(row: Any) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in tuning_log.KEY)


def here(log: Log, chosen: Sequence[Trial], budget: float, device: torch.device) -> int:
    """Measure in this process what the log doesn't hold yet; the exit status."""
    began, clock = time.monotonic(), make_clock(device)
    for trial in chosen:
        if log.holds(trying.key(trial)):
            continue
        if time.monotonic() - began > budget:
            break
        print(f"{NOW}{trial.title}", flush=True)
        log.append(trying.measured(trial, clock, device))
        try:
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
        except RuntimeError:  # nothing that comes after would be right
            return _BROKEN
    return 0


def main(
    out: Path | None, budget: float, only: Sequence[str], without: Sequence[str], jobs: int, in_this_process: bool
) -> int:
    """The command on a GPU: 0 if all is measured, 2 if trials are left or nothing could be run."""
    began = time.monotonic()
    try:
        if not torch.cuda.is_available():
            raise ValueError(
                "tune needs a CUDA or ROCm device that torch can use; --compile sm_90 needs none. Got none."
            )
        device, stamp = torch.device("cuda"), take_stamp(torch.device("cuda"))
        if stamp.commit == "unknown":
            raise ValueError("the commit must be known: set GATEFUSE_COMMIT where there is no git. Got unknown.")
        chosen = choose(only, without)
        path = (out or Path("reports") / stamp.device) / tuning_log.NAME
        log = Log(path, asdict(stamp))
    except ValueError as error:
        print(f"gatefuse.bench: {error}", file=sys.stderr)
        return 2
    debug.limit_polls()
    if in_this_process:
        return here(log, chosen, budget, device)
    print(_head(stamp), flush=True)
    flags = [*(f"--only={name}" for name in only), *(f"--without={name}" for name in without)]
    command = [sys.executable, "-m", "gatefuse.bench", "tune", "--in-this-process", f"--out={path.parent}", *flags]
    arch = "sm_{}{}".format(*torch.cuda.get_device_capability(device))

    def compiled(left: Sequence[Trial]) -> Sequence[dict[str, Any]]:
        try:
            return compilation.compile_all(arch, left, jobs or os.cpu_count() or 1)
        except (FileNotFoundError, KeyError, RuntimeError) as error:  # no tool, no table of that GPU, a process killed
            print(f"nothing is compiled ahead: {error}", flush=True)
            return []

    # Those who ask for certain variants want nothing else.
    behind = 0.0 if flags else min(kernel_profile.SECONDS, budget / 3)
    left = run(log, chosen, command, budget - behind - (time.monotonic() - began), compiled)
    if behind:
        print(kernel_profile.write(path.parent, _head(stamp), behind), flush=True)
    if path.exists():
        print(report.write_measured(path))
        print(report.short(tuning_log.latest(tuning_log.read(path))))
    print(f"{left} trials are left; run it again to go on." if left else "All trials have a row.")
    return 2 if left else 0


def _head(stamp: Stamp) -> str:
    return (
        f"{stamp.gpu}, driver {stamp.gpu_driver}, {stamp.gpu_clocks}; torch {stamp.torch}, triton {stamp.triton}; "
        f"commit {stamp.commit} ({stamp.tree})"
    )

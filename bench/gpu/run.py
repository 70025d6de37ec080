"""``python3 -m gatefuse.bench.gpu``: the jobs for a GPU that is at hand for minutes, in order of importance.

Device tests, the most telling first and those of the grid's barrier last, which may hang; then the sanitizer; then
sweeps. Each runs as a process of its own with a time limit of its own; one that hangs is stopped, one that breaks the
device ends, and the rest of it runs without the test or contender that did so. All results lie in one flat folder,
where they are written as soon as they are there; a later run with the same folder goes on from them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path

from gatefuse.bench.gpu import summary
from gatefuse.bench.gpu.jobs import Entry, Finished, Job, Record, execute
from gatefuse.bench.gpu.outcomes import broke, judge
from gatefuse.bench.measure.race import LIMIT
from gatefuse.bench.report import sweep
from gatefuse.bench.storage.lock import Lock
from gatefuse.bench.storage.tuning_log import NAME as TUNING
from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.bench.suite.contenders import CONTENDERS, GRID

# Below this many seconds nothing is begun: a process takes some to bring torch and to compile a first kernel.
_LEAST = 20.0
# What a sweep needs to end by itself: the group that it is in.
_GROUP = 25.0
# Seconds without a word after which a test, or a contender of a sweep, hangs: each may have to compile something.
_SILENCE = {"tests": 60.0, "sweep": 120.0}

# What torch or Triton warns of on that machine alone is no fault of a kernel's. gatefuse's own are RuntimeWarnings: a
# kernel that doesn't fit, a recording that failed.
WARNINGS = ("-o", "filterwarnings=default\nerror::RuntimeWarning:gatefuse", "--disable-warnings")
_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *WARNINGS)
_TWO_CELLS = "({0}-lstm-plain or {0}-gru_reset_first-all or {0}-slstm-plain)"
SWEEPS = ("quick", "regimes", "real", "lengths", "full")


def _tests(name: str, paths: str, pick: str, seconds: float, until: float, marks: str = "gpu") -> Job:
    command = (*_PYTEST, "-m", marks, "-v", "--tb=short", *paths.split(), *(("-k", pick) if pick else ()))
    return Job(name, "tests", command, seconds, until, _SILENCE["tests"])


def make_jobs(out: Path) -> list[Job]:
    """All jobs, the most important first."""
    cells = "tests/kernels/drivers/test_drivers.py tests/kernels/drivers/test_own_cell.py"
    grid = _TWO_CELLS.format("cuda-grid")
    few = f"{_TWO_CELLS.format('cuda-step')} or {_TWO_CELLS.format('cuda-block')}"
    # Each tensor has an allocation of its own: within torch's large ones nothing beyond a tensor is out of bounds.
    # Errors of calls to the driver, which torch and Triton try and handle, are no kernel's.
    alone = ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", "compute-sanitizer", "--tool", "memcheck")
    memcheck = (*alone, "--report-api-errors", "no", "--error-exitcode", "66", *_PYTEST, "-m", "gpu", "-x")
    sanitized = " or ".join(f"cuda-{driver}-lstm-all" for driver in ("step", "block"))
    return [
        _tests("step and block, three cells", "tests/kernels/drivers/test_drivers.py", few, 120, 0.3),
        _tests(
            "torch's own loop",
            "tests/kernels/drivers/test_vendor.py tests/kernels/drivers/test_eval_backward.py "
            "tests/kernels/drivers/test_double_backward.py",
            "",
            60,
            0.35,
        ),
        _tests("what only a GPU shows", "tests/kernels/drivers/test_gpu.py", "", 150, 0.4, "gpu and not grid"),
        _tests("grid, three cells", "tests/kernels/drivers/test_drivers.py", grid, 90, 0.45),
        _tests("what only a GPU shows, by grid", "tests/kernels/drivers/test_gpu.py", "", 240, 0.6, "gpu and grid"),
        Job("memcheck", "sanitizer", (*memcheck, "tests/kernels/drivers/test_drivers.py", "-k", sanitized), 90, 0.65),
        _sweep("quick", out),
        _tests("recorded steps", "tests/kernels/loops/test_recording.py", "", 60, 0.7),
        _tests("both directions", "tests/kernels/loops/test_directions.py", "", 120, 0.7),
        *(_tests(f"{d}, all cells", cells, f"cuda-{d}", 300, 0.7) for d in ("block", "step")),
        _tests("grid, all cells", cells, "", 300, 0.7, "gpu and grid"),
        *(_tests(f"{d}, all cells", cells, f"cuda-{d}", 300, 0.7) for d in ("script", "aten")),
        *(_sweep(name, out) for name in SWEEPS[1:]),
    ]


def _sweep(name: str, out: Path) -> Job:
    command = ("--benchmark", f"--sweep={name}", f"--rows={out / name}.csv", "--resume", "--benchmark-quiet", "-vs")
    return Job(f"sweep {name}", "sweep", (*_PYTEST, *command), inf, silence=_SILENCE["sweep"])


def run(
    jobs: Sequence[Job],
    record: Record,
    budget: float,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
    execute: Callable[[Sequence[str], float, float], Finished] = execute,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Run what isn't done, each job for as long as it and the budget allow; ``after`` is called after each.

    A job in which something hangs, or breaks the device, goes on without that, within the same limits.
    """
    began = clock()
    for job in jobs:
        first = clock()
        while not record.done(job):
            own, left = job.seconds - (clock() - first), job.until * budget - (clock() - began)
            seconds = min(own, left)
            if seconds <= min(_LEAST, budget / 10):
                break
            command = record.command(job)
            if job.kind == "sweep":
                command += (f"--stop-after={max(1.0, seconds - _GROUP):.0f}", *_without(record))
            say(f"{clock() - began:4.0f} s  {job.name}, for {seconds:.0f} s at most")
            go_on = False
            try:
                finished = execute(command, seconds, job.silence)
                entry = judge(job, finished, own_limit=own <= left)
                # Not where it comes again: it could not be left out.
                before = record.entries[job.name].tests if job.name in record.entries else {}
                go_on = (finished.silent or broke(finished)) and entry.running not in ("", *before)
            except Exception as error:  # one job's end must not be that of all
                entry = Entry("failed", f"{type(error).__name__}: {error}")
            record.keep(job, entry)
            what = entry.outcome, record.entries[job.name].counts, entry.note
            say(f"        {'; '.join(part for part in what if part)}")
            after()
            if not go_on:
                break


def _without(record: Record) -> list[str]:
    """Contenders that hung, or broke the device, in a sweep; and the one whose barrier hung in a test, or while it was
    measured itself."""
    outcomes = [(job, *pair) for job, entry in record.entries.items() for pair in entry.tests.items()]
    # A test that broke the device costs a sweep nothing: there it is found out within one group, and in no time.
    guilty = [
        (job, test)
        for job, test, how in outcomes
        if how == "HUNG" or (how == "BROKE" and not test.startswith("tests/"))
    ]
    names = [name for name in (_contender(*each) for each in guilty) if name]
    return [f"--without={name}" for name in dict.fromkeys(names)]


def _contender(job: str, test: str) -> str:
    name = test.rpartition(": ")[2]
    if name == LIMIT or (test.startswith("tests/") and "grid" in f"{job} {test}"):
        return GRID
    return name if name in {contender.name for contender in CONTENDERS} else ""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 1 if a test failed, 2 if nothing could be run."""
    parser = argparse.ArgumentParser(prog="gatefuse.bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--budget", type=float, default=480.0, metavar="SECONDS", help="default: 480")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: reports/<device>")
    found = parser.parse_args(arguments)
    began = time.monotonic()

    import torch

    from gatefuse.bench.measure.stamp import take_stamp
    from gatefuse.kernels.runtime import debug

    if not torch.cuda.is_available():
        print("make gpu needs a CUDA or ROCm device that torch can use. There is none.", file=sys.stderr)
        return 2
    debug.limit_polls()
    stamp = take_stamp(torch.device("cuda"))
    out = found.out or Path("reports") / stamp.device
    try:
        record = Record(out / "state.json", stamp.commit, stamp.device)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    where = f"{stamp.gpu}, driver {stamp.gpu_driver}, {stamp.gpu_clocks}; torch {stamp.torch}, triton {stamp.triton}"
    head = f"{where}; commit {stamp.commit} ({stamp.tree})"
    print(head)
    if stamp.commit == "unknown":
        print("The commit is unknown, so nothing can be gone on with: set GATEFUSE_COMMIT where there is no git.")
    out.mkdir(parents=True, exist_ok=True)

    def write() -> str:
        for name in SWEEPS:  # what a sweep that was killed has left of its lock
            with suppress(ValueError):
                Lock(out / f"{name}.csv").release()
        text = summary.summary(head, record.entries, {name: out / f"{name}.csv" for name in SWEEPS})
        # In one file: what is fetched from such a machine may be few files.
        write_whole(out / "summary.txt", f"{text}\n{summary.tests(record.entries)}")
        return text

    run(make_jobs(out.resolve()), record, found.budget - (time.monotonic() - began), after=write)
    print(write())
    if not found.out:
        for csv in sorted(out.glob("*.csv")):
            if csv.name != TUNING:
                print(sweep.write(csv))
    return int(any(entry.outcome == "failed" or entry.bad for entry in record.entries.values()))

"""``python3 -m gatefuse.bench.gpu``: what a GPU machine that is at hand for minutes is asked, in order of importance.

Device tests, the most telling first and those of the grid's barrier last, which may hang; then the sanitizer; then
sweeps. Each runs as a process of its own with a time limit of its own. All results lie in one flat folder, where they
are written as soon as they are there; a later run with the same folder goes on from them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gatefuse.bench import digest, report
from gatefuse.bench.jobs import Entry, Finished, Job, Record, execute, judge

# Below this many seconds nothing is begun: a process takes some to bring torch and to compile a first kernel.
_LEAST = 20.0
# What a sweep needs to end by itself: the group that it is in.
_GROUP = 25.0

_PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
_TWO_CELLS = "({0}-lstm-plain or {0}-gru_reset_first-all or {0}-slstm-plain)"
SWEEPS = ("quick", "regimes", "real", "lengths", "full")


def _tests(name: str, path: str, pick: str, seconds: float, until: float) -> Job:
    command = (*_PYTEST, "-m", "gpu", "-v", "--tb=short", path, *(("-k", pick) if pick else ()))
    return Job(name, "tests", command, seconds, until)


def make_jobs(out: Path) -> list[Job]:
    """All jobs, the most important first."""
    grid = _TWO_CELLS.format("cuda-grid")
    few = f"{_TWO_CELLS.format('cuda-step')} or {_TWO_CELLS.format('cuda-block')}"
    memcheck = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "66", *_PYTEST, "-m", "gpu", "-x")
    sanitized = " or ".join(f"cuda-{driver}-lstm-all" for driver in ("step", "block"))
    return [
        _tests("step and block, three cells", "tests/test_drivers.py", few, 120, 0.3),
        _tests("torch's own loop", "tests/test_vendor.py", "", 60, 0.35),
        _tests("what only a GPU shows", "tests/test_gpu.py", "not grid", 120, 0.4),
        _tests("grid, three cells", "tests/test_drivers.py", grid, 90, 0.45),
        _tests("what only a GPU shows, by grid", "tests/test_gpu.py", "grid", 120, 0.5),
        Job("memcheck", "sanitizer", (*memcheck, "tests/test_drivers.py", "-k", sanitized), 90, 0.55),
        _sweep("quick", out),
        *(_tests(f"{d}, all cells", "tests/test_drivers.py", f"cuda-{d}", 300, 0.6) for d in ("block", "step")),
        _tests("grid, all cells", "tests/test_drivers.py", "cuda-grid or programs_share", 300, 0.6),
        _tests("script, all cells", "tests/test_drivers.py", "cuda-script", 300, 0.6),
        *(_sweep(name, out) for name in SWEEPS[1:]),
    ]


def _sweep(name: str, out: Path) -> Job:
    command = ("--benchmark", f"--sweep={name}", f"--rows={out / name}.csv", "--resume", "--benchmark-quiet", "-q")
    return Job(f"sweep {name}", "sweep", (*_PYTEST, *command), float("inf"))


def run(
    jobs: Sequence[Job],
    record: Record,
    budget: float,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
    execute: Callable[[Sequence[str], float], Finished] = execute,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Run what isn't done, each job for as long as it and the budget allow; ``after`` is called after each."""
    began = clock()
    for job in jobs:
        left = job.until * budget - (clock() - began)
        if record.done(job) or left <= min(_LEAST, budget / 10):
            continue
        command, seconds = record.command(job), min(job.seconds, left)
        if job.kind == "sweep":
            command += (f"--stop-after={max(1.0, seconds - _GROUP):.0f}", *_without_grid(record))
        say(f"{clock() - began:4.0f} s  {job.name}, for {seconds:.0f} s at most")
        try:
            entry = judge(job, execute(command, seconds), own_limit=seconds == job.seconds)
        except Exception as error:  # one job's end must not be that of all
            entry = Entry("failed", f"{type(error).__name__}: {error}")
        record.keep(job, entry)
        what = entry.outcome, record.entries[job.name].counts, entry.note
        say(f"        {'; '.join(part for part in what if part)}")
        after()


def _without_grid(record: Record) -> tuple[str, ...]:
    """A barrier that hung in a test would hang the sweep too."""
    found = (pair for entry in record.entries.values() for pair in entry.tests.items())
    hung = any("grid" in test and outcome == "HUNG" for test, outcome in found)
    return ("--without=gatefuse grid",) if hung else ()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 1 if a test failed, 2 if nothing could be run."""
    parser = argparse.ArgumentParser(prog="gatefuse.bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--budget", type=float, default=480.0, metavar="SECONDS", help="default: 480")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: reports/<device>")
    found = parser.parse_args(arguments)
    began = time.monotonic()

    import torch

    from gatefuse.bench.rows import take_stamp

    if not torch.cuda.is_available():
        print("make gpu needs a CUDA or ROCm device that torch can use. There is none.", file=sys.stderr)
        return 2
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
    sheet = out / "tests.txt"
    jobs, left = make_jobs(out.resolve()), found.budget - (time.monotonic() - began)
    run(jobs, record, left, after=lambda: sheet.write_text(digest.tests(head, record.entries), encoding="utf-8"))
    text = digest.summary(head, record.entries, {name: out / f"{name}.csv" for name in SWEEPS})
    (out / "summary.txt").write_text(text, encoding="utf-8")
    print(text)
    if not found.out:
        for csv in sorted(out.glob("*.csv")):
            print(report.write(csv))
    return int(any(entry.outcome == "failed" or entry.bad for entry in record.entries.values()))


if __name__ == "__main__":
    sys.exit(main())

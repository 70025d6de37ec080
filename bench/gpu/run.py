"""A run of jobs within a budget: which come, for how long, and what is left out once it has hung.

Each job runs as a process of its own with a time limit of its own; one that hangs is stopped, one that breaks the
device ends, and the rest of it runs without the test or contender that did so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gatefuse.bench.gpu.jobs import Entry, Finished, Job, Record, execute
from gatefuse.bench.gpu.outcomes import broke, judge
from gatefuse.bench.measure.race import LIMIT
from gatefuse.bench.suite.contenders import CONTENDERS, GRID

# Below this many seconds nothing is begun: a process takes some to bring torch and to compile a first kernel.
_LEAST = 20.0
# What a sweep needs to end by itself: the group that it is in.
_GROUP = 25.0
# Tests of the barrier alone, and what leaves out all of kernels that have it; of several -m the last one counts.
_BARRIER = "tests/bench/measure/test_barrier_loop.py"
_WITHOUT_BARRIER = ("-m", "gpu and not grid")
# Its forms that no kernel has on a GPU of NVIDIA's but where one is tried, by the ends of their tests' names.
_TRIED_FORMS = ("every]", "portable]")


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
            elif job.kind == "tests" and _barrier_fails(record):
                command += _WITHOUT_BARRIER
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


def _barrier_fails(record: Record) -> bool:
    """Whether the barrier alone has hung, or was given up: each test of a kernel that has it would cost its whole
    silence, or a process."""
    outcomes = [pair for entry in record.entries.values() for pair in entry.tests.items()]
    failed = [test for test, how in outcomes if how in ("HUNG", "BROKE") and test.startswith(_BARRIER)]
    return any(not _tried(test, record.device) for test in failed)


def _tried(test: str, device: str) -> bool:
    """Whether it is of the barrier alone, in a form that grid's kernels don't have there."""
    return test.startswith(_BARRIER) and test.endswith(_TRIED_FORMS) and device.startswith("nvidia")


def _without(record: Record) -> list[str]:
    """Contenders that hung, or broke the device, in a sweep; and the one whose barrier hung in a test, or while it was
    measured itself."""
    outcomes = [(job, *pair) for job, entry in record.entries.items() for pair in entry.tests.items()]
    # A test that broke the device costs a sweep nothing: there it is found out within one group, and in no time.
    guilty = [
        (job, test)
        for job, test, how in outcomes
        if (how == "HUNG" or (how == "BROKE" and not test.startswith("tests/"))) and not _tried(test, record.device)
    ]
    names = [name for name in (_contender(*each) for each in guilty) if name]
    return [f"--without={name}" for name in dict.fromkeys(names)]


def _contender(job: str, test: str) -> str:
    name = test.rpartition(": ")[2]
    if name == LIMIT or (test.startswith("tests/") and "grid" in f"{job} {test}"):
        return GRID
    return name if name in {contender.name for contender in CONTENDERS} else ""

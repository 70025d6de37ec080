"""The outcome of a job, read off the end of what it said: of tests, of the sanitizer, of a sweep."""

from __future__ import annotations

import re

from ..measure.broken_device import SAID, STATUS
from ..plugin.progress import NOW
from .jobs import Entry, Finished, Job

_KEPT = 6_000  # characters of a failed command's output


def judge(job: Job, finished: Finished, own_limit: bool) -> Entry:
    """The outcome of a command, by its end.

    Args:
        own_limit: it had the job's own seconds, and not only what was left of the budget.
    """
    if job.kind == "sanitizer":
        return _judge_sanitizer(finished, own_limit or finished.silent)
    if job.kind == "compile":
        return _judge_compilation(finished)
    return {"tests": _judge_tests, "sweep": _judge_sweep}[job.kind](finished)


def broke(finished: Finished) -> bool:
    """Whether it ended since the device answers no more; on its way out such a process may still abort, or hang."""
    return finished.status == STATUS or f"! {SAID}" in finished.output or f"Interrupted: {SAID}" in finished.output


_TEST = re.compile(r"^(tests/\S+?::\w+(?:\[.*?\])?)(?: +(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b)?", re.MULTILINE)


def outcomes(output: str) -> tuple[dict[str, str], str]:
    """Outcome by test out of what pytest -v printed, and the test that was running when it ended, "" if none was."""
    tests: dict[str, str] = {}
    running = ""
    for name, outcome in _TEST.findall(output):
        running = "" if outcome else name
        if outcome:
            tests[name] = outcome
    return tests, running


def _judge_compilation(finished: Finished) -> Entry:
    last = finished.output.strip().rpartition("\n")[2][:200]
    if finished.status is None:
        return Entry("cut", "what isn't compiled yet is when it is needed", finished.seconds)
    if finished.status == 0:
        return Entry("passed", last, finished.seconds)
    return Entry("failed", f"it ended with {finished.status}", finished.seconds, output=finished.output[-_KEPT:])


def _judge_tests(finished: Finished) -> Entry:
    tests, running = outcomes(finished.output)
    entry = Entry("passed", seconds=finished.seconds, tests=tests)
    if broke(finished):
        entry.running = next((test for test in reversed(tests) if tests[test] in ("FAILED", "ERROR")), "")
        entry.outcome, entry.note = "cut", f"{SAID} after {entry.running or 'its beginning'}"
        entry.tests |= {entry.running: "BROKE"} if entry.running else {}
    elif finished.status is None:
        entry.outcome, entry.note, entry.running = "cut", f"stopped in {running or 'its beginning'}", running
        if finished.silent and running:
            entry.tests[running] = "HUNG"
        elif finished.silent and not tests:
            entry.outcome = "failed"
    elif finished.status not in (0, 5):  # 5: there was no test left to run
        entry.outcome = "failed"
        if finished.status != 1:
            entry.note = f"pytest ended with {finished.status} in {running or 'its beginning'}"
            if running:
                entry.tests[running] = "ERROR"
    if entry.bad or entry.outcome == "failed":
        entry.output = finished.output[-_KEPT:]
    return entry


def _judge_sanitizer(finished: Finished, own_limit: bool) -> Entry:
    if finished.status is None:
        return Entry("unavailable" if own_limit else "cut", "it did not end in time", finished.seconds)
    last = [line.strip() for line in finished.output.splitlines() if line.strip()][-1:] or ["nothing"]
    found = re.search(r"ERROR SUMMARY: (\d+) error", finished.output)
    if not found or re.search("not supported|unsupported", finished.output, re.IGNORECASE):
        return Entry("unavailable", f"it ended with {finished.status} and said: {last[0][:200]}", finished.seconds)
    if finished.status == 0 and " passed" in finished.output:
        return Entry("passed", found.group(), finished.seconds)
    note = f"{found.group()}, exit status {finished.status}"
    return Entry("failed", note, finished.seconds, output=finished.output[-_KEPT:])


def _judge_sweep(finished: Finished) -> Entry:
    entry = Entry("passed", seconds=finished.seconds)
    if finished.silent or broke(finished):
        said = re.findall(rf"^{NOW}(.*)$", finished.output, re.MULTILINE)
        entry.outcome, entry.running = "cut", said[-1] if said else ""
        how, outcome = (f"{SAID} after", "BROKE") if broke(finished) else ("hung in", "HUNG")
        entry.note = f"{how} {entry.running or 'its beginning'}"
        entry.tests = {entry.running: outcome} if entry.running else {}
    elif finished.status in (None, 2):  # stopped, by --stop-after or from outside
        entry.outcome, entry.note = "cut", "stopped where its time was over"
    elif finished.status not in (0, 1, 5):  # 1: a contender failed, which its row says
        entry.outcome, entry.note = "failed", f"pytest ended with {finished.status}"
    if entry.outcome == "failed" or entry.running or finished.silent:
        entry.output = finished.output[-_KEPT:]
    return entry

"""Commands with a time limit each, and a record of them that a later run goes on from."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

from .progress import NOW

_KEPT = 6_000  # characters of a failed command's output


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        kind: ``tests``, ``sanitizer`` or ``sweep``.
        seconds: that it may take; what is left then is for a later run.
        until: the part of the whole budget by which it must be over: later jobs are to have the rest.
        silence: seconds without a word after which it hangs.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    seconds: float
    until: float = 1.0
    silence: float = inf


@dataclass(frozen=True)
class Finished:
    """A command that is over.

    Attributes:
        status: its exit status, None where it was stopped.
        output: of both its streams.
        silent: it was stopped since it had said nothing for too long.
    """

    status: int | None
    output: str
    seconds: float
    silent: bool = False


@dataclass
class Entry:
    """What is known of a job.

    Attributes:
        outcome: ``passed``, ``failed``, ``unavailable``, or ``cut``, which is gone on with the next time.
        note: why, in a line.
        tests: outcome by test, in pytest's words; ``HUNG`` for one that was silent for too long, or was running each
            time when its job was stopped twice. Of a sweep those that hung alone, as ``group: contender``.
        running: the test that was running when its job was stopped.
        output: the end of a failed command's output.
    """

    outcome: str
    note: str = ""
    seconds: float = 0.0
    tests: dict[str, str] = field(default_factory=dict)
    running: str = ""
    output: str = ""

    @property
    def counts(self) -> str:
        """``12 passed, 1 failed``."""
        counts = Counter(self.tests.values())
        return ", ".join(f"{n} {outcome.lower()}" for outcome, n in sorted(counts.items(), key=lambda pair: -pair[1]))

    @property
    def bad(self) -> list[str]:
        """Tests that did not pass."""
        return [test for test, outcome in self.tests.items() if outcome in ("FAILED", "ERROR", "HUNG")]


class Record:
    """The jobs of one commit on one device, in a JSON file.

    Args:
        path: what it holds is gone on with if it is of this commit; an unknown commit is none.

    Raises:
        ValueError: the file is of another device, or is not one of these.
    """

    def __init__(self, path: Path, commit: str, device: str):
        self.path, self.commit, self.device = path, commit, device
        self.entries: dict[str, Entry] = {}
        if not path.exists():
            return
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            of = held["commit"], held["device"]
            entries = {name: Entry(**entry) for name, entry in held["jobs"].items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} must be a record of jobs; remove it to begin anew. Got {error!r}.") from None
        if of[1] != device:
            raise ValueError(
                f"{path.parent} must hold the results of one device. It has {of[1]}, and this is {device}."
            )
        if of[0] == commit != "unknown":
            self.entries = entries

    def done(self, job: Job) -> bool:
        return job.name in self.entries and self.entries[job.name].outcome != "cut"

    def keep(self, job: Job, entry: Entry) -> None:
        """Write it down, with all that an earlier part of the same job found."""
        if before := self.entries.get(job.name):
            if entry.running and entry.running == before.running:  # twice is no accident
                entry.tests[entry.running] = "HUNG"
            entry.tests = {**before.tests, **entry.tests}
            entry.seconds += before.seconds
            entry.output = entry.output or before.output
        if entry.bad and entry.outcome == "passed":
            entry.outcome = "failed"
        self.entries[job.name] = entry
        held = {"commit": self.commit, "device": self.device}
        held["jobs"] = {name: asdict(entry) for name, entry in self.entries.items()}  # type: ignore[assignment]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(held, indent=1), encoding="utf-8")
        os.replace(beside, self.path)

    def command(self, job: Job) -> tuple[str, ...]:
        """The job's command, without the tests that are over."""
        tests = self.entries[job.name].tests if job.kind == "tests" and job.name in self.entries else {}
        return (*job.command, *(f"--deselect={test}" for test in tests))


def execute(command: Sequence[str], seconds: float, silence: float = inf) -> Finished:
    """Run a command for so long at most; then, or once it is silent for too long, it and all it started are killed."""
    began = heard = time.monotonic()
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            return Finished(127, str(error), 0.0)
        status: int | None = None
        silent, said = False, 0
        while status is None:
            now = time.monotonic()
            if said != (said := os.fstat(output.fileno()).st_size):
                heard = now
            silent = now - heard > silence
            if silent or now - began > seconds:
                os.killpg(process.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):  # one that waits within the device's driver is left alone
                    process.wait(20)
                break
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(max(0.0, min(0.5, began + seconds - now)))
        output.seek(0)
        return Finished(status, output.read().decode(errors="replace"), time.monotonic() - began, silent)


def judge(job: Job, finished: Finished, own_limit: bool) -> Entry:
    """What a command's end says.

    Args:
        own_limit: it had the job's own seconds, and not only what was left of the budget.
    """
    if job.kind == "sanitizer":
        return _judge_sanitizer(finished, own_limit or finished.silent)
    return {"tests": _judge_tests, "sweep": _judge_sweep}[job.kind](finished)


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


def _judge_tests(finished: Finished) -> Entry:
    tests, running = outcomes(finished.output)
    entry = Entry("passed", seconds=finished.seconds, tests=tests)
    if finished.status is None:
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
    if finished.silent:
        said = re.findall(rf"^{NOW}(.*)$", finished.output, re.MULTILINE)
        entry.outcome, entry.running = "cut", said[-1] if said else ""
        entry.note = f"hung in {entry.running or 'its beginning'}"
        entry.tests = {entry.running: "HUNG"} if entry.running else {}
    elif finished.status in (None, 2):  # stopped, by --stop-after or from outside
        entry.outcome, entry.note = "cut", "stopped where its time was over"
    elif finished.status not in (0, 1, 5):  # 1: a contender failed, which its row says
        entry.outcome, entry.note = "failed", f"pytest ended with {finished.status}"
    if entry.outcome == "failed" or finished.silent:
        entry.output = finished.output[-_KEPT:]
    return entry

"""Commands with a time limit each, and a record of them that a later run goes on from."""

from __future__ import annotations

import json
import os
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

from ..storage.whole_file import write_whole


@dataclass(frozen=True)
class Job:
    """A command with its limits.

    Attributes:
        kind: ``compile``, ``tests``, ``sanitizer`` or ``sweep``.
        seconds: that it may take; what is left then is for a later run.
        until: the part of the whole budget by which it must be over: later jobs are to have the rest.
        silence: seconds without a word after which it hangs.
        expected: seconds that it is thought to take.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    seconds: float
    until: float = 1.0
    silence: float = inf
    expected: float = 0.0


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
            time when its job was stopped twice; ``BROKE`` for one after which the device answered no more. Of a sweep
            those two alone, as ``group: contender``.
        running: the test that was running when its job was stopped, or after which the device answered no more.
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
        return [test for test, outcome in self.tests.items() if outcome in ("FAILED", "ERROR", "HUNG", "BROKE")]


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
        """Whether it is over. What was compiled lies on the machine, which may be another the next time."""
        return job.kind != "compile" and job.name in self.entries and self.entries[job.name].outcome != "cut"

    def keep(self, job: Job, entry: Entry) -> None:
        """Write it down, with all that an earlier part of the same job found."""
        if before := self.entries.get(job.name):
            if entry.running and entry.running == before.running:  # twice is no accident
                entry.tests.setdefault(entry.running, "HUNG")
            entry.tests = {**before.tests, **entry.tests}
            entry.seconds += before.seconds
            entry.output = entry.output or before.output
        if entry.bad and entry.outcome == "passed":
            entry.outcome = "failed"
        self.entries[job.name] = entry
        held = {"commit": self.commit, "device": self.device}
        held["jobs"] = {name: asdict(entry) for name, entry in self.entries.items()}  # type: ignore[assignment]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(held, indent=1))

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

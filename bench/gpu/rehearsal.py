"""A run of which nothing is run: the order of its jobs, when each would begin, how long it may take, what is left.

Commands are stubbed: each takes the seconds that it is thought to take, and leaves the files that it would leave.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gatefuse.bench.gpu.jobs import Finished, Record
from gatefuse.bench.gpu.order import make_jobs
from gatefuse.bench.gpu.parcel import NAME, Parcel
from gatefuse.bench.gpu.run import run
from gatefuse.bench.storage.lock import Lock

_SAID = "1 passed\nERROR SUMMARY: 0 errors\n"


def rehearse(budget: float) -> str:
    """The text of a rehearsal: jobs with their commands, what waits for a later call, and the files that come out."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
        jobs, parcel = make_jobs(Path(folder)), Parcel(Path(out) / NAME, Path(folder))
        record = Record(Path(folder) / "state.json", "unknown", "none")
        now, most, lines = 0.0, 0, [""]

        def execute(command: Sequence[str], seconds: float, silence: float) -> Finished:
            nonlocal now, most
            job = next(job for job in jobs if tuple(command[: len(job.command)]) == job.command)
            took = min(job.expected, seconds)
            lines[-1] += f" ({took:.0f} s are expected)"
            lines.append(f"        {shlex.join(command).replace(str(folder), 'ROWS')}")
            for rows in (Path(part.removeprefix("--rows=")) for part in command if part.startswith("--rows=")):
                with Lock(rows):
                    rows.write_text("", encoding="utf-8")
                    most = max(most, _files(out))
            now += took
            return Finished(0, _SAID, took)

        def after() -> None:
            nonlocal most
            parcel.pack()
            (Path(out) / "summary.txt").write_text("", encoding="utf-8")
            most = max(most, _files(out))

        run(jobs, record, budget, lines.append, lambda: now, execute, after)
        waiting = [job.name for job in jobs if job.name not in record.entries]
        lines.append(f"{now:4.0f} s  over; the next call has: {'; '.join(waiting) or 'nothing'}")
        lines.append(f"OUT has {most} files at most: {', '.join(sorted(path.name for path in Path(out).iterdir()))}")
    return "\n".join(line for line in lines if line)


def _files(folder: str) -> int:
    return sum(path.is_file() for path in Path(folder).rglob("*"))

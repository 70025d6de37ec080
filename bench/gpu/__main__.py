"""``python3 -m gatefuse.bench.gpu``: an unattended run on a GPU that is at hand for minutes.

order.py has the jobs. All results lie in one flat folder, where they are written as soon as they are there; with --out
that is packed into one file, beside a page of what was found. A later run goes on from either.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gatefuse.bench.gpu import rehearsal, run, summary
from gatefuse.bench.gpu.jobs import Record
from gatefuse.bench.gpu.order import SWEEPS, make_jobs
from gatefuse.bench.gpu.parcel import NAME, Parcel
from gatefuse.bench.report import sweep
from gatefuse.bench.storage.lock import Lock
from gatefuse.bench.storage.tuning_log import NAME as TUNING
from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.bench.suite.contenders import FIRST

if TYPE_CHECKING:
    from gatefuse.bench.measure.stamp import Stamp

# Seconds: with a machine's start, and the variants and profiles of `make tune` behind it, a quarter of an hour.
BUDGET = 430.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 1 if a test failed, 2 if nothing could be run."""
    parser = argparse.ArgumentParser(prog="gatefuse.bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=f"default: {BUDGET:.0f}")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"gets {NAME}, summary.txt; default: reports/<device>")
    parser.add_argument("--dry-run", action="store_true", help="run nothing: say in which order, and for how long")
    found = parser.parse_args(arguments)
    if found.dry_run:
        print(rehearsal.rehearse(found.budget))
        return 0
    began = time.monotonic()

    import torch

    from gatefuse.bench.measure.stamp import take_stamp
    from gatefuse.kernels.runtime import debug

    if not torch.cuda.is_available():
        print("make gpu needs a CUDA or ROCm device that torch can use. There is none.", file=sys.stderr)
        return 2
    debug.limit_polls()
    stamp = take_stamp(torch.device("cuda"))
    print(head := _head(stamp))
    if stamp.commit == "unknown":
        print("The commit is unknown, so nothing can be gone on with: set GATEFUSE_COMMIT where there is no git.")
    with tempfile.TemporaryDirectory() as apart:
        folder = Path(apart) if found.out else Path("reports") / stamp.device
        try:
            parcel = Parcel(found.out / NAME, folder) if found.out else None
            if parcel:
                parcel.unpack()
            record = Record(folder / "state.json", stamp.commit, stamp.device)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        folder.mkdir(parents=True, exist_ok=True)

        def write() -> str:
            return _write(folder, found.out or folder, head, record)

        with parcel.kept() if parcel else nullcontext():
            run.run(make_jobs(folder.resolve()), record, found.budget - (time.monotonic() - began), after=write)
            print(write())
        if not found.out:
            for csv in sorted(folder.glob("*.csv")):
                if csv.name != TUNING:
                    print(sweep.write(csv))
    return int(any(entry.outcome == "failed" or entry.bad for entry in record.entries.values()))


def _head(stamp: Stamp) -> str:
    where = f"{stamp.gpu}, driver {stamp.gpu_driver}, {stamp.gpu_clocks}; torch {stamp.torch}, triton {stamp.triton}"
    return f"{where}; commit {stamp.commit} ({stamp.tree})"


def _write(folder: Path, out: Path, head: str, record: Record) -> str:
    """Write the page of what was found so far; returns its first part."""
    for name in SWEEPS:  # what a sweep that was killed has left of its lock
        with suppress(ValueError):
            Lock(folder / f"{name}.csv").release()
    rows = {name: folder / f"{name}.csv" for name in SWEEPS}
    long = {name: path for name, path in rows.items() if name != FIRST}
    text = f"{summary.summary(head, record.entries, long)}\n{summary.kernels(rows[FIRST])}"
    out.mkdir(parents=True, exist_ok=True)
    # In one file: what is fetched from such a machine may be few files.
    write_whole(out / "summary.txt", f"{text}\n{summary.tests(record.entries)}")
    return text


if __name__ == "__main__":
    sys.exit(main())

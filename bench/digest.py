"""What a run on a borrowed GPU found, in a page of text: tests, and how far ahead gatefuse is in each sweep."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, nan
from pathlib import Path

import numpy as np
import pandas as pd

from .jobs import Entry
from .table import GROUP, read

AUTO, TORCH = "gatefuse auto", "torch.nn"
_WORST = 8


def tests(head: str, entries: Mapping[str, Entry]) -> str:
    """A line a job, then what failed and how."""
    parts = [head, *(_line(name, entry) for name, entry in entries.items())]
    for name, entry in entries.items():
        if entry.bad or entry.output:
            parts += ["", f"{name}:", *(f"  {entry.tests[test]} {test}" for test in entry.bad), entry.output.rstrip()]
    return "\n".join(parts) + "\n"


def summary(head: str, entries: Mapping[str, Entry], sweeps: Mapping[str, Path]) -> str:
    """At most 40 lines.

    Args:
        sweeps: the rows' file by the name of the sweep, whether or not it is there.
    """
    lines = [head, "", *(_line(name, entry) for name, entry in entries.items())]
    failures = [f"  {entry.tests[test]} {test}" for entry in entries.values() for test in entry.bad]
    lines += failures[:6] + ([f"  and {len(failures) - 6} more, in tests.txt"] if len(failures) > 6 else [])
    found = {name: _auto(path) for name, path in sweeps.items() if path.exists()}
    lines += ["", f"{'':10}{'groups':>8}{'failed':>8}{'over eager':>12}{'over torch':>12}{'of the floor':>14}"]
    for name, rows in found.items():
        if isinstance(rows, str):
            lines.append(f"{name:10} {rows}")
            continue
        mean = {column: _mean(rows[column]) for column in ("speedup", "over_torch")}
        share = rows["floor_share"].median()
        lines.append(
            f"{name:10}{len(rows):>8}{rows.attrs['failed']:>8}{mean['speedup']:>11.2f}x{mean['over_torch']:>11.2f}x"
            f"{share:>13.0%}"
        )
    frames = [rows.assign(sweep=name) for name, rows in found.items() if not isinstance(rows, str) and len(rows)]
    if frames:
        for frame in frames:
            frame.attrs.clear()
        worst = pd.concat(frames).dropna(subset="over_torch").nsmallest(_WORST, "over_torch")
        lines += ["", "auto's slowest groups against torch.nn:"]
        for _, row in worst.iterrows():
            sizes = " ".join(f"{size}{row[size]}" for size in ("H", "B", "T", "I"))
            what = " ".join([row["cell"], sizes, row["dtype"], row["mode"], row["shape_name"]]).strip()
            lines.append(f"  {row['over_torch']:.2f}x  {row['sweep']}: {what}, by {row['driver']}")
    return "\n".join(lines[:39]) + "\n"


def _line(name: str, entry: Entry) -> str:
    what = "; ".join(part for part in (entry.outcome, entry.counts, entry.note) if part)
    return f"{name:32}{entry.seconds:5.0f} s  {what}"


def _auto(path: Path) -> pd.DataFrame | str:
    """Auto's rows of a sweep with their speed-up over torch.nn, or what is wrong with the file."""
    try:
        rows = read(path)
    except ValueError as error:
        return str(error)
    ok = rows[rows["status"] == "ok"]
    torch = ok[ok["contender"] == TORCH].set_index(list(GROUP))["p50"].to_dict()
    auto = ok[ok["contender"] == AUTO].copy()
    keys = auto[list(GROUP)].itertuples(index=False, name=None)
    auto["over_torch"] = np.array([torch.get(key, nan) for key in keys], float) / auto["p50"]
    auto.attrs["failed"] = int((rows["status"] == "failed").sum())
    return auto


def _mean(values: pd.Series) -> float:
    """The geometric mean."""
    values = values.dropna()
    return exp(np.log(values).mean()) if len(values) else nan

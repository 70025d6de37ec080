"""What a run on a borrowed GPU found, in a page of text: tests, and how far ahead gatefuse is in each sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..report.document.figures import digits, geometric, shape
from ..report.sweep import load
from ..storage.results import AUTO, TORCH, duels
from .jobs import Entry

_WORST = 8


def tests(entries: Mapping[str, Entry]) -> str:
    """The tests that failed and how, by job."""
    parts = ["What failed, and how:"]
    for name, entry in entries.items():
        if entry.bad or entry.output:
            parts += ["", f"{name}:", *(f"  {entry.tests[test]} {test}" for test in entry.bad), entry.output.rstrip()]
    return "\n".join(parts) + "\n"


def summary(head: str, entries: Mapping[str, Entry], sweeps: Mapping[str, Path]) -> str:
    """The page, of at most 40 lines.

    Args:
        sweeps: the rows' file by the name of the sweep, whether or not it is there.
    """
    lines = [head, "", *(_line(name, entry) for name, entry in entries.items())]
    failures = [f"  {entry.tests[test]} {test}" for entry in entries.values() for test in entry.bad]
    lines += failures[:6] + ([f"  and {len(failures) - 6} more, in summary.txt"] if len(failures) > 6 else [])
    lines += ["", f"{'':10}{'groups':>8}{'failed':>8}{'over eager':>12}{'over torch':>12}{'of the floor':>14}"]
    races: list[pd.DataFrame] = []
    for name, path in sweeps.items():
        if not path.exists():
            continue
        try:
            results = load(path)
        except ValueError as error:
            lines.append(f"{name:10} {error}")
            continue
        auto, both = results.ok[results.ok["contender"] == AUTO], duels(results.ok, TORCH)
        failed = (results.rows["status"] == "failed").sum()
        lines.append(
            f"{name:10}{len(auto):>8}{failed:>8}{geometric(auto['speedup']):>11.2f}x{geometric(both['over']):>11.2f}x"
            f"{auto['floor_share'].median():>13.0%}"
        )
        races += [both.assign(sweep=name)] if len(both) else []
    if races:
        lines += ["", "auto's slowest groups against torch.nn:"]
        for row in pd.concat(races).nsmallest(_WORST, "over").to_dict("records"):
            what = f"{shape(row)} {row['dtype']} {row['mode']}, by {row['driver']}"
            lines.append(f"  {row['over']:.2f}x  {row['sweep']}: {what}")
    return "\n".join(lines[:39]) + "\n"


def kernels(path: Path) -> str:
    """The sweep of the first minutes: microseconds a step by shape, mode and contender, in brackets as a replayed
    graph, and the least that they could be by the limits measured; "" where there are no rows."""
    if not path.exists():
        return ""
    try:
        rows = load(path).rows
    except ValueError as error:
        return f"{path.name}: {error}\n"
    names = list(dict.fromkeys(rows["contender"]))
    lines = [f"{'microseconds a step':34}" + "".join(f"{name:>16}" for name in (*names, "the least"))]
    for _, group in rows.groupby("group", sort=False):
        first = group.iloc[0]
        by_name = {row["contender"]: row for row in group.to_dict("records")}
        figures = [_figure(by_name.get(name)) for name in names]
        least = digits(first["floor_seconds"] * 1e6 / first["T"])
        what = f"{first['cell']} {first['H']}/{first['B']} {first['mode']}"
        lines.append(f"{what:34}" + "".join(f"{figure:>16}" for figure in (*figures, least)))
    wrong = rows[rows["status"] == "failed"]
    lines += [f"  {shape(row)} {row['mode']}, {row['contender']}: {row['note']}" for row in wrong.to_dict("records")]
    return "\n".join(lines) + "\n"


def _figure(row: Mapping[Any, Any] | None) -> str:
    """A contender's time; of a replayed graph, where there is one, in brackets."""
    if row is None or row["status"] != "ok":
        return "-" if row is None else row["status"]
    replayed = f" ({digits(row['graph_p50'] * 1e6 / row['T'])})" if row["graph_p50"] > 0 else ""
    return digits(row["us_per_step"]) + replayed


def _line(name: str, entry: Entry) -> str:
    what = "; ".join(part for part in (entry.outcome, entry.counts, entry.note) if part)
    return f"{name:58}{entry.seconds:5.0f} s  {what}"

"""Rows -> plots: speed-ups over H and B, microseconds a step over H beside the limit, throughput over batch.

Where matplotlib is missing, or the rows can't carry a plot, a word stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...storage.results import AUTO, TORCH, Results, duels
from ..document.blocks import Block, Heading, Picture
from ..document.drawing import Panel, draw, heat, line, styles
from .by_size import LEAST

# Panels of one file; a full sweep has one for each of its cells, dtypes and modes.
MOST_PANELS = 16


class Plot(NamedTuple):
    """A plot, which is one file.

    Attributes:
        kind: the end of its name.
        alt: what it shows.
        panels: out of results.
        needs: what rows must hold for a panel.
        legend: its contenders need one.
    """

    kind: str
    alt: str
    panels: Callable[[Results], list[Panel]]
    needs: str
    legend: bool


def names(sweep: str) -> list[str]:
    """The files that a report's plots may have."""
    return [name(sweep, plot) for plot in PLOTS]


def name(sweep: str, plot: Plot) -> str:
    """A plot's file."""
    return f"{sweep}-{plot.kind}.svg"


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def section(results: Results) -> Iterator[Block]:
    """The plots that the rows can carry, and a word on each other one."""
    yield Heading("Plots")
    lines = results.ok["contender"].nunique() + 1
    if not can_draw():
        yield "The plots were left out: matplotlib is not installed (`pip install 'gatefuse[report]'`)."
        return
    for plot in PLOTS:
        panels = plot.panels(results)
        if not panels:
            yield f"{plot.alt}: left out, as no cell, dtype and mode has {plot.needs}."
            continue
        file = name(results.sweep, plot)
        rest = f" The first {MOST_PANELS} of {len(panels)}; the tables hold the others."
        yield f"{plot.alt}.{rest if len(panels) > MOST_PANELS else ''}"
        yield Picture(file, plot.alt, draw(panels[:MOST_PANELS], file, lines if plot.legend else 0))


def _speedups(results: Results) -> list[Panel]:
    """auto over the plain loop and over torch.nn, by H and B, side by side."""
    panels = []
    rivals = {"the plain loop": duels(results.ok, "baseline"), TORCH: duels(results.ok, TORCH)}
    alike = _alike(results.ok)
    for (cell, dtype, mode), some in alike.groupby(["cell", "dtype", "mode"], sort=False):
        for name, duel in rivals.items():
            both = duel[duel["group"].isin(some["group"])]
            table = np.log2(both["over"]).groupby([both["H"], both["B"]]).mean().unstack("B")
            if min(table.shape) > 1 and table.count().sum() >= max(LEAST, table.size / 2):
                panels.append(Panel(f"{cell}, {mode}, {dtype}: over {name}", partial(heat, table)))
    return panels


def _steps(results: Results) -> list[Panel]:
    return _lines(results, "H", "us_per_step", "hidden size H", "us a step")


def _throughput(results: Results) -> list[Panel]:
    return _lines(results, "B", "tokens_per_second", "batch B", "tokens a second")


def _lines(results: Results, over: str, what: str, x: str, y: str) -> list[Panel]:
    """Of each cell, dtype and mode the line that has most points, all but one size held; of several the middle one."""
    looks = styles(results.ok["contender"].unique())
    held = ["B" if over == "H" else "H", "T", "input"]
    ok = _alike(results.ok)
    # A hidden size that grows with its input is one line; one that jumps between inputs is none.
    ok = ok.assign(input=ok["I"].astype(str).where(ok["I"] != ok["H"], "H"))
    points = ok.groupby(["cell", "dtype", "mode", *held])[over].nunique()
    panels = []
    for (cell, dtype, mode), some in ok.groupby(["cell", "dtype", "mode"], sort=False):
        most = points[cell, dtype, mode]
        if most.max() < 2:
            continue
        key = _middle(sorted(most.index[most == most.max()]))
        on_it = np.logical_and.reduce([some[name] == value for name, value in zip(held, key, strict=True)])
        rows = some[on_it].sort_values(over, kind="stable")
        fixed = ", ".join(f"{name}={value}" for name, value in zip((*held[:2], "I"), key, strict=True))
        onto = partial(line, rows, over, what, (x, y), looks)
        panels.append(Panel(f"{cell}, {mode}, {dtype}: {fixed}", onto))
    return panels


def _middle(keys: list[tuple]) -> tuple:
    """Of sorted keys the one in the middle by the first place, of these by the second, and so on."""
    for place in range(len(keys[0])):
        values = sorted({key[place] for key in keys})
        keys = [key for key in keys if key[place] == values[len(values) // 2]]
    return keys[0]


def _alike(rows: pd.DataFrame) -> pd.DataFrame:
    """One layer, one direction, one head, every sample full."""
    plain = (rows["layers"] == 1) & (rows["bidirectional"] != "True") & (rows["heads"] == 1)
    return rows[plain & (rows["fill"] == 1)]


PLOTS = (
    Plot(
        "speedup",
        f"Speed-up of {AUTO} over H and B, as geometric mean over T and I; purple is faster, orange is slower",
        _speedups,
        "several hidden sizes and batches that fill at least half of a table",
        legend=False,
    ),
    Plot(
        "step",
        "Microseconds a step over H, with the limit where it was measured",
        _steps,
        "two hidden sizes at the same batch, steps and kind of input",
        legend=True,
    ),
    Plot(
        "throughput",
        "Tokens a second over the batch, with the limit where it was measured",
        _throughput,
        "two batches at the same hidden size, steps and input",
        legend=True,
    ),
)

"""The rows of a sweep as reports read them: which have figures, which can't be used and why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from .sweep_table import GROUP

AUTO, PACKED, TORCH = "gatefuse auto", "gatefuse packed", "torch.nn"
VENDOR = "vendor"  # the driver that runs torch's own loop
STATUS = ("ok", "failed", "left out")
# Columns of Results.rows that no file has.
DERIVED = ("group", "busy")
# Of a busy machine other programs took this part of the cores while a group was measured; where that was not counted,
# so many wanted one when the run began.
TAKEN, WANTED = 0.1, 0.25
# So few samples say nothing where the machine was busy.
FEW = 3


@dataclass(frozen=True)
class Results:
    """A sweep's rows.

    Attributes:
        sweep: its name, the file's.
        rows: all that can be used, with ``group``, a number for each group of shape, dtype and mode, and ``busy``:
            other programs were at work too.
        skipped: lines and rows that can't be, in words.
    """

    sweep: str
    rows: pd.DataFrame
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, frame: pd.DataFrame, sweep: str) -> Results:
        """The results in a frame that sweep_table.read gave.

        Raises:
            ValueError: there are no rows, or none that can be used.
        """
        if frame.empty:
            raise ValueError("rows must hold at least one row. Got none.")
        skipped = [str(line) for line in frame.attrs.get("skipped", ())]
        # A row that says it is fine and has no time is neither a figure nor a failure, nor is one that says neither.
        figures = frame[["p20", "p50", "p80"]]
        broken = (frame["status"] == "ok") & ~((figures > 0) & np.isfinite(figures)).all(axis=1)
        broken |= ~frame["status"].isin(STATUS)
        for row in frame[broken].to_dict("records"):
            rule = f"status must be one of {', '.join(STATUS)}. Got {row['status']!r}"
            why = "ok without times" if row["status"] == "ok" else rule
            skipped.append(f"{row['cell']} H{row['H']} B{row['B']} T{row['T']}, {row['contender']}: {why}")
        rows = frame[~broken]
        if rows.empty:
            raise ValueError(f"rows must hold at least one that can be used. Got none: {'; '.join(skipped[:3])}.")
        group = rows.groupby(list(GROUP), sort=False).ngroup()
        # Short groups have no count of their own, and are taken to be as the others of the file.
        taken = rows["others"].fillna(rows["others"].median())
        load = taken.fillna(rows["load"] * (TAKEN / WANTED))
        return cls(sweep, rows.assign(group=group, busy=load > TAKEN * rows["cores"]), tuple(skipped))

    @cached_property
    def ok(self) -> pd.DataFrame:
        """The rows with figures."""
        return self.rows[self.rows["status"] == "ok"]

    @property
    def lacks(self) -> int:
        """How many groups of the sweep have not been measured; 0 too where the rows don't say how many it has."""
        groups = self.last["groups"]
        return 0 if pd.isna(groups) else max(0, int(groups) - self.rows["group"].nunique())

    @property
    def last(self) -> pd.Series:
        """The last row, whose stamp counts as the file's."""
        return self.rows.iloc[-1]

    @property
    def on_cpu(self) -> bool:
        return bool(self.last["kind"] == "cpu")

    @property
    def where(self) -> str:
        """The device, in the words of its maker."""
        return str(self.last["cpu"] if self.on_cpu else self.last["gpu"])


def duels(ok: pd.DataFrame, rival: str, name: str = AUTO) -> pd.DataFrame:
    """Every group in which both ran: name's rows, with the rival's figures and who won.

    There is no telling who won where the intervals from the 20 % to the 80 % quantile meet, nor by a busy machine
    between two runs of the same code, or by FEW samples.

    Args:
        rival: a contender, or "baseline" for the one that each row's speed-up is over.

    Returns:
        ``name``'s rows with the columns ``p20_rival``, ``p50_rival``, ``p80_rival``, ``over`` (the rival's time over
        its own: above 1 it is faster; NaN where untold), ``slower``, ``faster``, and ``untold`` (the machine was busy).
    """
    rivals = ok[ok["contender"] == (ok["baseline"] if rival == "baseline" else rival)]
    both = ok[ok["contender"] == name].merge(
        rivals[["group", "contender", "driver", "samples", "p20", "p50", "p80"]], on="group", suffixes=("", "_rival")
    )
    their = both["driver_rival"].where(both["contender_rival"] != TORCH, VENDOR)
    untold = unreliable(both, their, both["samples_rival"])
    return both.assign(
        over=(both["p50_rival"] / both["p50"]).where(~untold),
        slower=(both["p20"] > both["p80_rival"]) & ~untold,
        faster=(both["p80"] < both["p20_rival"]) & ~untold,
        untold=untold,
    )


def unreliable(rows: pd.DataFrame, driver: pd.Series, samples: pd.Series) -> pd.Series:
    """Where the difference of rows to others, by those drivers with so many samples, says nothing.

    On an idle machine two runs of the same code are told apart: what comes before and after it is not the same.
    """
    same = (rows["driver"] == driver) & (driver != "")
    return rows["busy"].astype(bool) & (same | (rows["samples"] <= FEW) | (samples <= FEW))

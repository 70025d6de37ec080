"""The rows of a sweep as reports read them: which have figures, which can't be used and why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from .sweep_table import GROUP

AUTO, PACKED, TORCH = "gatefuse auto", "gatefuse packed", "torch.nn"
STATUS = ("ok", "failed", "left out")


@dataclass(frozen=True)
class Results:
    """A sweep's rows.

    Attributes:
        sweep: its name, the file's.
        rows: all that can be used, with ``group``, a number for each group of shape, dtype and mode.
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
        return cls(sweep, rows.assign(group=rows.groupby(list(GROUP), sort=False).ngroup()), tuple(skipped))

    @cached_property
    def ok(self) -> pd.DataFrame:
        """The rows with figures."""
        return self.rows[self.rows["status"] == "ok"]

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

    Args:
        rival: a contender, or "baseline" for the one that each row's speed-up is over.

    Returns:
        ``name``'s rows with the columns ``p20_rival``, ``p50_rival``, ``p80_rival``, ``over`` (the rival's time over
        its own: above 1 it is faster), ``slower`` and ``faster`` (the intervals from the 20 % to the 80 % quantile
        don't meet).
    """
    rivals = ok[ok["contender"] == (ok["baseline"] if rival == "baseline" else rival)]
    both = ok[ok["contender"] == name].merge(
        rivals[["group", "contender", "p20", "p50", "p80"]], on="group", suffixes=("", "_rival")
    )
    return both.assign(
        over=both["p50_rival"] / both["p50"],
        slower=both["p20"] > both["p80_rival"],
        faster=both["p80"] < both["p20_rival"],
    )

"""The file that rows are appended to. Imports neither torch nor gatefuse: the report reads it on any machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

COUNTS = ("I", "H", "B", "T", "layers", "samples", "cores", "threads")
FIGURES = (
    "p20",
    "p50",
    "p80",
    "us_per_step",
    "tokens_per_second",
    "speedup",
    "peak_memory_bytes",
    "error",
    "first_call_seconds",
    "load",
)
SHAPE = ("cell", "H", "B", "T", "I", "layers", "bidirectional", "shape_name")
GROUP = (*SHAPE, "dtype", "mode")


def read(path: Path) -> pd.DataFrame:
    """The rows of a file: figures are numbers, all else is text as it stands, empty where there is none.

    Of a group that was measured twice, the later rows count.
    """
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame = frame.drop_duplicates([*GROUP, "contender"], keep="last", ignore_index=True)
    return frame.assign(**{name: pd.to_numeric(frame[name]) for name in (*COUNTS, *FIGURES)})


class Table:
    """An append-only CSV of rows, each with its run's stamp.

    Args:
        path: made with its folder when the first row comes. A file that lies there is then replaced, unless
        resume: its rows of the same commit and device stay; rows without a known commit never do.
        stamp: columns that all rows of this run share, ``commit`` and ``device`` among them.
    """

    def __init__(self, path: Path, stamp: Mapping[str, Any], resume: bool = False):
        self.path, self.stamp = path, dict(stamp)
        self._old: pd.DataFrame | None = pd.DataFrame()
        if resume and path.exists() and stamp["commit"] != "unknown":
            old = read(path)
            self._old = old[(old["commit"] == stamp["commit"]) & (old["device"] == stamp["device"])]
        assert self._old is not None
        self._done = {_key(row) for row in self._old.to_dict("records")}

    @property
    def resumed(self) -> bool:
        """The file holds rows of an earlier run that count."""
        return bool(self._done)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """A resumed file already has this contender in this group."""
        return _key(row) in self._done

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a finished group's rows, all at once."""
        frame = pd.DataFrame([{**row, **self.stamp} for row in rows])
        if self._old is None:
            _write(frame, self.path, "a")
        else:
            _write(pd.concat([self._old, frame]) if len(self._old) else frame, self.path, "w")
            self._old = None


def _write(frame: pd.DataFrame, path: Path, mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # One write, so that a run that is cut off leaves no half of a group.
    text = frame.to_csv(header=mode == "w", index=False, float_format="%.6g")
    with path.open(mode, encoding="utf-8", newline="") as file:
        file.write(text)


def _key(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in (*GROUP, "contender"))

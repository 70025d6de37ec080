"""The file of measured variants, to which rows are only added: a log. Imports neither torch nor gatefuse."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from .csv_lines import append, in_words, read_lines, to_numbers

NAME = "tuning.csv"  # beside the sweeps of its device
KEY = ("variant", "cell", "H", "B", "dtype", "way")
FIGURES = (
    "expected", "error", "allowed", "samples", "default_us", "us", "ratio", "ratio_low", "ratio_high",
)  # fmt: skip
OWN = (
    *KEY, "loop", "T", "change", "expected", "why", "status", "note", "same_bits", "error", "allowed", "samples",
    "default_us", "us", "ratio", "ratio_low", "ratio_high",
)  # fmt: skip


def read(path: Path) -> pd.DataFrame:
    """The rows of a file, figures as numbers, NaN where there is none; ``attrs["skipped"]`` names unusable lines.

    Raises:
        OSError: it can't be read.
        ValueError: it is empty, lacks columns, or holds rows of several devices.
    """
    frame, skipped = read_lines(path, (*OWN, "device", "commit", "tree", "date"))
    if len(devices := frame["device"].unique()) > 1:
        raise ValueError(f"{path} must hold rows of one device. Got {', '.join(sorted(devices))}.")
    frame = to_numbers(frame, skipped, figures=FIGURES)
    frame = frame.reset_index(drop=True)
    frame.attrs["skipped"] = in_words(skipped)
    return frame


def latest(frame: pd.DataFrame) -> pd.DataFrame:
    """Of each trial the row that was written last."""
    return frame.drop_duplicates(list(KEY), keep="last", ignore_index=True)


class Log:
    """Rows of this run, added to those that lie there.

    Args:
        stamp: columns that all rows of this run share.

    Raises:
        ValueError: the file that lies there is of another device or other columns.
    """

    def __init__(self, path: Path, stamp: Mapping[str, Any]):
        self.path, self.stamp = path, dict(stamp)
        self._done: set[tuple[str, ...]] = set()
        if not path.exists() or not path.stat().st_size:
            return
        old = read(path)
        if len(old) and (device := old["device"].iloc[0]) != stamp["device"]:
            raise ValueError(f"{path} must hold rows of one device. It has {device}, and this is {stamp['device']}.")
        header = old.columns.tolist()
        if header != [*OWN, *stamp]:
            raise ValueError(f"{path} must have the columns of this version. Got {', '.join(header)}.")
        self._done = {_key(row) for row in old[old["commit"] == stamp["commit"]].to_dict("records")}

    def holds(self, row: Mapping[str, Any]) -> bool:
        """The file has that trial by this commit; an unknown commit is none."""
        return self.stamp["commit"] != "unknown" and _key(row) in self._done

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row at once."""
        whole = {**{name: row.get(name, "") for name in OWN}, **self.stamp}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        values = [f"{value:.6g}" if isinstance(value, float) else value for value in whole.values()]
        append(self.path, _line(values), header=_line(whole))
        self._done.add(_key(row))


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _key(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEY)

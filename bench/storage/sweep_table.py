"""The file that rows are appended to. Imports neither torch nor gatefuse: the report reads it on any machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .csv_lines import append, in_words, read_lines, say_left_out, to_numbers
from .lock import Lock
from .whole_file import write_whole

COUNTS = ("I", "H", "B", "T", "layers", "heads", "samples", "cores", "threads")
FIGURES = (
    "fill",
    "p20",
    "p50",
    "p80",
    "wall_p50",
    "graph_p50",
    "us_per_step",
    "tokens_per_second",
    "speedup",
    "peak_memory_bytes",
    "error",
    "first_call_seconds",
    "compile_seconds",
    "flop",
    "bytes",
    "matrix_rate",
    "copy_rate",
    "barrier_seconds",
    "floor_seconds",
    "floor_share",
    "load",
    "others",
    "groups",
)
SHAPE = ("cell", "H", "B", "T", "I", "layers", "bidirectional", "shape_name", "fill", "heads")
GROUP = (*SHAPE, "dtype", "mode")

# Notes of rows in which nothing was tried: how one begins whose group had no reference, and the whole of one for whom
# the contender was not wanted.
UNCHECKED = "in the float64 reference: "
ON_REQUEST = "left out on request"

_NEEDED = (
    *("cell", "contender", "mode", "dtype", "I", "H", "B", "T", "layers", "bidirectional", "shape_name", "status"),
    *("note", "driver", "samples", "p20", "p50", "p80", "us_per_step", "tokens_per_second", "baseline", "speedup"),
    *("peak_memory_bytes", "error", "first_call_seconds", "device", "kind", "cpu", "cores", "threads", "load", "gpu"),
    *("gpu_driver", "tf32", "torch", "triton", "commit", "tree", "date"),
)


def read(path: Path) -> pd.DataFrame:
    """The rows of a file: figures are numbers, all else is text as it stands, empty where there is none.

    A row is a line. One that is cut off, has another number of fields than the header, or text for a number, is left
    out, and ``attrs["skipped"]`` says so for each: ``line 31: ...``. Of a group that was measured twice, the later rows
    count. Figures that older files lack are there, as NaN.

    Raises:
        ValueError: the file is empty, lacks columns, or holds rows of several devices.
    """
    frame, skipped = read_lines(path, _NEEDED)
    # Files of earlier versions lack figures; all their rows were full and had one head. Before the stamp, which begins
    # at the device.
    since = (*FIGURES, "floor_by", "heads")
    lacking = {name: "1" if name in ("fill", "heads") else "" for name in since if name not in frame}
    for name, text in lacking.items():
        frame.insert(0, name, text)
    frame = to_numbers(frame, skipped, COUNTS, FIGURES)
    if len(devices := frame["device"].unique()) > 1:
        raise ValueError(f"{path} must hold rows of one device. Got {', '.join(sorted(devices))}.")
    frame = frame.drop_duplicates([*GROUP, "contender"], keep="last", ignore_index=True)
    frame.attrs["skipped"] = in_words(skipped)
    return frame


class Table:
    """An append-only CSV of rows, each with its run's stamp. No other run may have one on the same file meanwhile.

    Args:
        path: made with its folder when the first row comes. A file that lies there is then replaced, unless
        resume: its rows of the same commit and device stay; rows without a known commit never do.
        stamp: columns that all rows of this run share, ``commit`` and ``device`` among them.
        earlier: the file to resume from where there is none at path; it stays as it is.

    Raises:
        OSError: the folder can't be made, or a lock not be written there.
        ValueError: the path is a folder's, another run writes the file, or it can't be resumed; see read.
    """

    def __init__(self, path: Path, stamp: Mapping[str, Any], resume: bool = False, earlier: Path | None = None):
        if path.is_dir():
            raise ValueError(f"rows must go to a file. Got the folder {path}.")
        self.path, self.stamp = path, dict(stamp)
        # Two runs that both resumed would each replace the other's rows by what lay there when it began.
        self._lock = Lock(path, "give this one another file (--rows=FILE or --reports=DIR)")
        self._old: pd.DataFrame | None = pd.DataFrame()
        found = path if earlier is None or path.exists() else earlier
        if resume and stamp["commit"] != "unknown" and found.exists() and found.stat().st_size:
            try:
                old = read(found)
            except BaseException:
                self.close()
                raise
            say_left_out(found, old.attrs["skipped"])  # as the first rows of this run replace the file
            self._old = old[(old["commit"] == stamp["commit"]) & (old["device"] == stamp["device"])]
        assert self._old is not None
        # Without a reference nobody was measured: another process may have the memory for it.
        self._done = {_key(row) for row in self._old.to_dict("records") if not row["note"].startswith(UNCHECKED)}

    def close(self) -> None:
        """Let other runs write the file; it is closed too where the table goes, or the process ends."""
        self._lock.release()

    @property
    def resumed(self) -> bool:
        """The file holds rows of an earlier run that count."""
        return bool(self._done)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """A resumed file already has this contender in this group."""
        return _key(row) in self._done

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a finished group's rows, all at once; one that is left out on request takes no measured row's place."""
        rows = [row for row in rows if row["note"] != ON_REQUEST or not self.holds(row)]
        if not rows:
            return
        frame = pd.DataFrame([{**row, **self.stamp} for row in rows])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._old is None:
            append(self.path, _text(frame, header=False), _text(frame[:0], header=True))
            return
        new = {_key(row) for row in rows}
        old = self._old[[_key(row) not in new for row in self._old.to_dict("records")]]
        whole = pd.concat([old, frame])[list(frame)] if len(old) else frame
        # In its place at once: a run that is killed here has lost no row that it resumed from.
        write_whole(self.path, _text(whole, header=True))
        self._old = None


def _text(frame: pd.DataFrame, header: bool) -> str:
    return frame.to_csv(header=header, index=False, float_format="%.6g", lineterminator="\n")


def _key(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in (*GROUP, "contender"))

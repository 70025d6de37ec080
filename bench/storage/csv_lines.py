"""A CSV's lines as text, and which of them can't be used."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pandas as pd


def read_lines(path: Path, needed: Iterable[str]) -> tuple[pd.DataFrame, dict[int, str]]:
    """What stands in the lines that are whole, by their number, and why the others can't be used, by theirs.

    Raises:
        OSError: the file can't be read.
        ValueError: it is empty, or lacks a needed column.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.strip():
        raise ValueError(f"{path} must hold a header and rows. Got an empty file.")
    first, *lines = text.split("\n")
    header = next(csv.reader([first]))
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"{path} must have the columns {', '.join(needed)}. Missing: {', '.join(missing)}.")
    skipped: dict[int, str] = {}
    kept: dict[int, list[str]] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        fields = next(csv.reader([line]), [])
        if number == len(lines) + 1:  # what follows the last newline
            skipped[number] = "it is cut off"
        elif len(fields) != len(header):
            skipped[number] = f"it has {len(fields)} fields, and the header {len(header)}"
        else:
            kept[number] = fields
    return pd.DataFrame.from_dict(kept, orient="index", columns=header, dtype=str), skipped


def in_words(skipped: dict[int, str]) -> list[str]:
    """Unusable lines in words, in the order of the file: ``line 31: it is cut off``."""
    return [f"line {number}: {why}" for number, why in sorted(skipped.items())]

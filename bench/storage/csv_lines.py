"""A CSV's lines as text: which of them can't be used and why, and lines added at the end, whole."""

from __future__ import annotations

import codecs
import csv
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import pandas as pd

from .lock import take
from .whole_file import naming


def read_lines(path: Path, needed: Iterable[str]) -> tuple[pd.DataFrame, dict[int, str]]:
    """What stands in the lines that are whole, by their number, and why the others can't be used, by theirs.

    Text is UTF-8, with a byte order mark or without.

    Raises:
        OSError: the file can't be read.
        ValueError: it is empty, or lacks a needed column.
    """
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if not content.strip():
        raise ValueError(f"{path} must hold a header and rows. Got an empty file.")
    first, *lines = content.split(b"\n")
    header, _ = _fields(first)
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"{path} must have the columns {', '.join(needed)}. Missing: {', '.join(missing)}.")
    skipped: dict[int, str] = {}
    kept: dict[int, list[str]] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        fields, why = _fields(line)
        if number == len(lines) + 1:  # what follows the last newline
            skipped[number] = "it is cut off"
        elif why:
            skipped[number] = why
        elif len(fields) != len(header):
            skipped[number] = f"it has {len(fields)} fields, and the header {len(header)}"
        else:
            kept[number] = fields
    return pd.DataFrame.from_dict(kept, orient="index", columns=header, dtype=str), skipped


def _fields(line: bytes) -> tuple[list[str], str]:
    """A line's fields, or why it has none."""
    try:
        text = line.removesuffix(b"\r").decode()
        if "\0" in text:
            return [], "it has zero bytes"
        return next(csv.reader([text]), []), ""
    except UnicodeDecodeError as error:
        return [], f"it has a byte that is not UTF-8, {line[error.start]:#x}"
    except csv.Error as error:
        return [], f"it is no line of a CSV: {error}"


def to_numbers(
    frame: pd.DataFrame, skipped: dict[int, str], counts: Iterable[str] = (), figures: Iterable[str] = ()
) -> pd.DataFrame:
    """The frame with numbers in its columns of numbers, without the rows that hold something else there.

    Args:
        frame: texts by the number of their line, as ``read_lines`` gives them.
        skipped: gets why a row is left out, by its line.
        counts: columns of whole numbers.
        figures: columns of numbers; NaN where there is none.
    """
    counts, figures = tuple(counts), tuple(figures)
    numbers = {}
    for name in (*counts, *figures):
        number = numbers[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
        if name in counts:
            wrong = ~(number % 1 == 0)
        else:
            wrong = number.isna() & ~frame[name].str.lower().isin(["", "nan"])
        for line in frame.index[wrong]:
            what = "whole number" if name in counts else "number"
            skipped.setdefault(int(line), f"{name} must be a {what}. Got {frame.at[line, name]!r}")
    keep = ~frame.index.isin(list(skipped))
    return frame.assign(**numbers)[keep].astype(dict.fromkeys(counts, int))


def in_words(skipped: Mapping[int, str]) -> list[str]:
    """Unusable lines in words, in the order of the file: ``line 31: it is cut off``."""
    return [f"line {number}: {why}" for number, why in sorted(skipped.items())]


def say_left_out(path: Path, skipped: Iterable[str]) -> None:
    """Name unusable lines, in words, on stderr: where no page does, or where they are about to be written over."""
    for line in skipped:
        print(f"gatefuse.bench: {path}, left out: {line}", file=sys.stderr)


def append(path: Path, lines: str, header: str = "") -> None:
    """Add whole lines to a file. A last line without its end, which a killed run or a full disk left, is cut off first
    and said on stderr: it would swallow the next.

    Args:
        path: made if it isn't there, in a folder that is.
        lines: each with its newline.
        header: what begins a file without lines.

    Raises:
        OSError: they can't be written; the lines that the file had are all that it has then.
    """
    with naming(path), path.open("a+b", buffering=0) as file:
        with suppress(OSError):  # where there are no locks
            take(file, wait=True)  # or what another writes just now would look cut off
        whole = _cut(path, file)
        left = memoryview((lines if whole else header + lines).encode())
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(whole)
            raise


def _cut(path: Path, file: IO[bytes]) -> int:
    """Where the last whole line of the file ends, after which it has nothing then."""
    end = begin = file.seek(0, os.SEEK_END)
    rest = b""
    while begin and b"\n" not in rest:
        begin = max(0, begin - 65536)
        file.seek(begin)
        rest = file.read(end - begin)
    whole = begin + rest.rfind(b"\n") + 1
    if whole < end:
        cut = rest[whole - begin :].decode(errors="backslashreplace")
        print(f"gatefuse.bench: {path}, left out: its last line is cut off: {cut[:80]!r}", file=sys.stderr)
        file.truncate(whole)
    return whole

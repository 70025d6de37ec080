"""Blocks of a report, before it becomes markdown or a page. A paragraph is a str, with markdown's marks in it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the report's own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Table:
    """A table of texts and whole numbers, as they are to be printed; no index."""

    frame: pd.DataFrame


@dataclass(frozen=True)
class Items:
    """A list, a line each."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A plot.

    Attributes:
        name: its file's, beside the report.
        alt: what it shows, in words.
        svg: its bytes.
    """

    name: str
    alt: str
    svg: bytes


Block = str | Heading | Table | Items | Picture

"""The README's figures, written between two marks from the reports' CSVs; nobody types them."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import relpath
from pathlib import Path

from . import index
from .document import markdown
from .document.blocks import Block, Table
from .sections import plots
from .sweep import load, summary

START, END = "<!-- report:start -->", "<!-- report:end -->"


def fill(readme: Path, csv: Path) -> Path:
    """Put between the marks a CSV's summary, its first plot if that is there, and a line for each report.

    The reports are those of the folder that holds the CSV's; links are the README's.

    Raises:
        OSError: a file can't be read or written.
        ValueError: the marks are not there, once each and in order, or a CSV holds no rows that can be used.
    """
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in after:
        raise ValueError(f"{readme.name} must hold {START} and {END} once each, in this order.")
    body = markdown.document(_blocks(csv, Path(relpath(csv.parent.parent, readme.parent)).as_posix()))
    readme.write_text(f"{before}{START}\n{body}{END}{after}", encoding="utf-8")
    return readme


def _blocks(csv: Path, reports: str) -> Iterator[Block]:
    results = load(csv)
    yield from summary(results)
    plot = plots.PLOTS[0]
    name = plots.name(csv.stem, plot)
    if csv.with_name(name).exists():
        yield f"![{plot.alt}]({reports}/{csv.parent.name}/{name})"
    page = f"{reports}/{csv.parent.name}/{csv.stem}.md"
    yield (
        f"Which driver is the fastest at each shape, plots, every contender, and why to believe it: [{page}]({page}). "
        f"All reports, by device and sweep ([{reports}]({reports}/README.md) says what the columns mean):"
    )
    yield Table(index.table(index.csvs(csv.parent.parent), f"{reports}/"))

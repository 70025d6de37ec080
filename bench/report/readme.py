"""The README's figures, written between marks from the reports' CSVs; nobody types them."""

from __future__ import annotations

from collections.abc import Iterator
from os.path import relpath
from pathlib import Path

from ..storage.csv_lines import say_left_out
from ..storage.results import Results
from . import index
from .document import markdown, marks
from .document.blocks import Block, Table
from .sections import plots, speedups
from .sweep import load, summary

# The parts of the page, by their marks: one figure and a plot, and what stands behind them.
HEADLINE, REPORT = "headline", "report"


def fill(readme: Path, csv: Path) -> Path:
    """Put between the marks a CSV's headline, with its first plot if that is there, its summary, the list of reports.

    The reports are those of the folder that holds the CSV's; links are the README's.

    Raises:
        OSError: a file can't be read or written.
        ValueError: the marks are not there, once each and in order, or a CSV holds no rows that can be used.
    """
    results = load(csv)
    say_left_out(csv, results.skipped)  # which the page only counts
    reports = Path(relpath(csv.parent.parent, readme.parent)).as_posix()
    parts = {HEADLINE: _headline(results, csv, reports), REPORT: _report(results, csv, reports)}
    return marks.fill(readme, {name: markdown.document(blocks) for name, blocks in parts.items()})


def _headline(results: Results, csv: Path, reports: str) -> Iterator[Block]:
    yield speedups.headline(results)
    plot = plots.PLOTS[0]
    name = plots.name(csv.stem, plot)
    if csv.with_name(name).exists():
        yield f"![{plot.alt}]({reports}/{csv.parent.name}/{name})"


def _report(results: Results, csv: Path, reports: str) -> Iterator[Block]:
    yield from summary(results)
    page = f"{reports}/{csv.parent.name}/{csv.stem}.md"
    yield (
        f"Which driver is the fastest at each shape, plots, every contender, and why to believe it: [{page}]({page}). "
        f"All reports, by device and sweep ([{reports}]({reports}/README.md) says what the columns mean):"
    )
    yield Table(index.table(index.csvs(csv.parent.parent), f"{reports}/"))

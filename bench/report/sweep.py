"""A CSV -> its report, as markdown with plots and as one page. Imports neither torch nor gatefuse; every figure is
computed from the CSV.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pandas as pd

from ..storage.results import Results
from ..storage.sweep_table import read
from ..storage.whole_file import write_whole
from .document import html as page
from .document import markdown
from .document.blocks import Block, Heading, Picture
from .document.figures import number, percent
from .sections import beside_lstm, contenders, drivers, method, plots, rerun, speedups

# A second run of a sweep that lies beside it goes into its report.
AGAIN = ".again.csv"
# Ends the name of a sweep of which a run has not measured all.
PARTIAL = ".partial"
# A machine is noisy if half of its intervals are wider than this part of the median.
NOISY = 0.1


def load(csv: Path) -> Results:
    """The rows of a file.

    Raises:
        OSError: it can't be read.
        ValueError: it holds no rows that can be used.
    """
    frame = read(csv)
    try:
        return Results.of(frame, csv.stem)
    except ValueError as error:
        raise ValueError(f"{csv}: {error}") from None


def write(csv: Path, against: Path | None = None, html: bool = False) -> Path:
    """Write the report of a CSV beside it, as .md with its plots, which stand for those that lay there.

    Args:
        against: another run of the same sweep; without it ``<sweep>.again.csv`` if that is there.
        html: write the page too, as .html.

    Raises:
        OSError: a file can't be read or written.
        ValueError: a file holds no rows that can be used, or the other run is of another device.
        ModuleNotFoundError: plots lie there, and there is no matplotlib to draw them anew; nothing is written.
    """
    results = load(csv)
    drawn = [path for name in plots.names(csv.stem) if (path := csv.with_name(name)).exists()]
    if drawn and not plots.can_draw():
        raise ModuleNotFoundError(
            f"matplotlib must be installed to draw {drawn[0]} anew: pip install 'gatefuse[report]'. It is not; the "
            "report and its plots stay as they are."
        )
    again = csv.with_suffix(AGAIN)
    against = against or (again if again.exists() else None)
    blocks = list(render(results, load(against) if against else None))
    path = csv.with_suffix(".md")
    pictures = {block.name: block.svg for block in blocks if isinstance(block, Picture)}
    for name, svg in pictures.items():
        write_whole(path.with_name(name), svg)
    write_whole(path, markdown.document(blocks))
    for plot in drawn:  # last, so that a disk that is full costs none
        if plot.name not in pictures:
            plot.unlink(missing_ok=True)
    if html:
        write_whole(path.with_suffix(".html"), page.document(blocks))
    return path


def render(results: Results, earlier: Results | None = None) -> Iterator[Block]:
    """The report: whether it is whole, the answer, then the driver for each shape, the tables, why to believe it, what
    is missing."""
    yield Heading(f"{results.sweep}, on {results.where}", 1)
    if results.lacks:
        yield partial(results)
    yield opening(results)
    yield from speedups.verdict(results)
    yield from drivers.verdict(results)
    yield from caution(results)
    for section in (speedups.speedups, speedups.losses, drivers.section, plots.section, contenders.contenders):
        yield from section(results)
    yield from method.reading(results)
    if earlier:
        yield from rerun.section(results, earlier)
    sections = (
        contenders.tables,
        beside_lstm.section,
        contenders.lengths,
        contenders.first_calls,
        contenders.host,
        contenders.memory,
    )
    yield from chain.from_iterable(section(results) for section in sections)
    yield from chain(method.missing(results), method.stamps(results))


def summary(results: Results) -> Iterator[Block]:
    """What a first page shows: whether it is whole, where it was measured, means by cell, how often auto loses."""
    if results.lacks:
        yield partial(results)
    yield opening(results)
    yield from caution(results)
    yield from contenders.beside_others(results)
    yield from speedups.verdict(results)
    last = results.last
    yield f"Measured {last['date']} with torch {last['torch']}, at commit {last['commit'][:10]} ({last['tree']})."


def partial(results: Results) -> str:
    """That the sweep was stopped, and how to go on."""
    measured = results.rows["group"].nunique()
    sweep = results.sweep.removesuffix(PARTIAL)
    return (
        f"**A part of the sweep: {measured} of {measured + results.lacks} groups.** The run was stopped before the "
        f"others; `pytest --benchmark --sweep {sweep} --resume` goes on."
    )


def opening(results: Results) -> str:
    """What was measured, and where."""
    groups = number(results.rows["group"].nunique(), "group")
    what = f"sweep {results.sweep}, {groups} of shape, dtype and mode"
    if results.on_cpu:
        return (
            f"**This is a CPU report**: {what}, on {results.where}; threads: {results.last['threads']}. "
            "It says nothing about a GPU, and the Triton kernels did not run."
        )
    return f"**GPU report**: {what}, on {results.where}."


def caution(results: Results) -> Iterator[str]:
    """What makes its figures worth less: a busy machine, a noisy one, a file with broken lines."""
    busy: pd.DataFrame = results.rows[results.rows["busy"]]
    if len(busy):
        run = busy.sort_values(["others", "load"], na_position="first").iloc[-1]
        groups = f"in {busy['group'].nunique()} of {number(results.rows['group'].nunique(), 'group')}"
        what = (
            f"its load was {run['load']:.2g} on {run['cores']} cores when the run began"
            if pd.isna(run["others"])
            else f"other programs took up to {run['others']:.2g} of {run['cores']} cores, {groups}"
        )
        yield (
            f"**The machine was busy**: {what}. "
            "That slows calls that share work between threads most, as they wait for each other; see the width of the "
            "intervals below. OMP_NUM_THREADS=1 measures one thread alone."
        )
    width = ((results.ok["p80"] - results.ok["p20"]) / results.ok["p50"]).median()
    if width > NOISY:
        yield (
            "**The machine was noisy**: in half of the rows the interval from the 20 % to the 80 % quantile is over "
            f"{percent(width)} of the median wide. Smaller differences mean nothing, and some larger ones "
            "neither."
        )
    if results.skipped:
        yield f"**Of the file's lines {len(results.skipped)} can't be used**; they are named at the end."

"""reports/README.md: one line for each device and sweep, regenerated from the CSVs, and the other reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ..storage.results import AUTO, TORCH, Results, duels
from ..storage.tuning_log import NAME as TUNING
from ..storage.whole_file import write_whole
from .document import markdown
from .document.blocks import Block, Heading, Items, Table
from .document.figures import mean, times
from .sweep import AGAIN, load

# Reports that something else writes, where they are there.
OTHERS = {
    "language/language.md": (
        "what language models over gatefuse's layers and over networks from scratch learn and how fast, beside the "
        "perplexities that Dive into Deep Learning prints; written by `python -m gatefuse.models.language report`"
    ),
    "clients.md": (
        "programs of others before and after `gatefuse.accelerate`: which layers it replaced, and by how much results "
        "differ; written by `python -m tests.clients`"
    ),
}
RESOURCES = "resources"  # the folder whose rows are of kernels that were compiled, not of calls


def csvs(reports: Path) -> list[Path]:
    """The files of all sweeps on all devices."""
    found = sorted(reports.glob("*/*.csv"))
    return [
        csv for csv in found if csv.parent.name != RESOURCES and csv.name != TUNING and not csv.name.endswith(AGAIN)
    ]


def write(reports: Path) -> Path:
    """Write the index of a folder of reports.

    Raises:
        OSError: a file can't be read or written.
        ValueError: a file holds no rows that can be used.
    """
    path = reports / "README.md"
    write_whole(path, markdown.document(index(reports)))
    return path


def index(reports: Path) -> Iterator[Block]:
    """The page: measured sweeps, then kernels that were only compiled, then reports of other kinds."""
    yield Heading("Reports", 1)
    yield (
        "Written by `python -m gatefuse.bench report` from the CSVs beside them; no figure is typed. A report opens "
        "with where gatefuse loses, says which driver is the fastest at each shape, and why to believe it."
    )
    found = csvs(reports)
    if found:
        yield Table(table(found))
        yield (
            f"Speed-ups of `{AUTO}`, geometric means over all groups of shape, dtype and mode, and in brackets the "
            "worst. It loses a group if it is slower there than torch.nn or than the plain PyTorch loop, and the "
            "intervals from the 20 % to the 80 % quantile don't meet."
        )
    compiled = sorted((reports / RESOURCES).glob("*.csv"))
    if compiled:
        yield Heading("Compiled, not run")
        yield "Registers, stack, shared memory and barriers of each whole-sequence kernel, by architecture:"
        yield Items(tuple(f"[{csv.stem}]({RESOURCES}/{csv.with_suffix('.md').name})" for csv in compiled))
    tuned = sorted(reports.glob(f"*/{TUNING}"))
    if tuned:
        yield Heading("Variants")
        yield "Changes to the kernels beside the unchanged ones, by device; docs/tuning.md says what was made of them:"
        yield Items(tuple(f"[{csv.parent.name}]({csv.parent.name}/{csv.with_suffix('.md').name})" for csv in tuned))
    others = [f"[{Path(name).stem}]({name}): {what}." for name, what in OTHERS.items() if (reports / name).exists()]
    if others:
        yield Heading("Other reports")
        yield Items(tuple(others))


def table(found: list[Path], prefix: str = "") -> pd.DataFrame:
    """A line for each CSV.

    Args:
        prefix: what leads from the page to the folder of reports, with its slash.
    """
    return pd.DataFrame([_line(load(csv), f"{prefix}{csv.parent.name}/{csv.stem}.md") for csv in found])


def _line(results: Results, link: str) -> dict[str, str]:
    last = results.last
    over = {rival: duels(results.ok, rival) for rival in ("baseline", TORCH)}
    lost = pd.concat([both.loc[both["slower"], "group"] for both in over.values()]).nunique()
    met = pd.concat([both["group"] for both in over.values()]).nunique()
    return {
        "device": results.where,
        "sweep": f"[{results.sweep}]({link})",
        "date": last["date"],
        "commit": f"{last['commit'][:10]}{'' if last['tree'] == 'clean' else ' (' + last['tree'] + ')'}",
        "over eager": _mean_and_worst(over["baseline"]),
        "over torch.nn": _mean_and_worst(over[TORCH]),
        "loses": f"{lost} of {met}",
        "failed rows": str((results.rows["status"] == "failed").sum()),
    }


def _mean_and_worst(both: pd.DataFrame) -> str:
    return f"{mean(both['over'])} ({times(both['over'].min())})" if len(both) else "-"

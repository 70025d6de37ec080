"""The tables in docs/tuning.md: what is expected of each variant, beside what compiling and measuring showed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..report.document import marks
from ..report.document.markdown import markdown
from ..storage import tuning_log
from .report import COMPILED, arrow, ratio, read_compiled, title
from .variant import Variant
from .variants import RULED_OUT, VARIANTS

# The parts of a page, by their marks.
LOG, DEAD_ENDS = "variants", "ruled out"


def fill(page: Path, reports: Path) -> Path:
    """Write the tables of all variants and of what is ruled out into a page, from the CSVs in a folder of reports.

    Raises:
        OSError: the page can't be read or written.
        ValueError: marks are not there, once each and in order, or a CSV can't be used.
    """
    compiled = [read_compiled(csv) for csv in sorted(reports.glob(f"resources/{COMPILED}*.csv"))]
    measured = [tuning_log.latest(tuning_log.read(csv)) for csv in sorted(reports.glob(f"*/{tuning_log.NAME}"))]
    tables = {
        LOG: [_entry(variant, compiled, measured) for variant in VARIANTS],
        DEAD_ENDS: [_dead_end(variant, compiled) for variant in RULED_OUT],
    }
    return marks.fill(page, {name: markdown(pd.DataFrame(rows)) for name, rows in tables.items()})


def _where(variant: Variant) -> dict[str, str]:
    where = ", ".join(f"{p.cell} {p.H}/{p.B}{'' if p.dtype == 'bfloat16' else ' ' + p.dtype}" for p in variant.places)
    change = f"{variant.loop} {variant.way}: {variant.change}"
    return {"variant": f"`{variant.name}`", "change": change, "cell H/B": where}


def _dead_end(variant: Variant, compiled: Sequence[pd.DataFrame]) -> dict[str, str]:
    figures = "; ".join(_first(variant, rows) for rows in compiled) or "not compiled yet"
    return {**_where(variant), "why not": variant.why, "compiled": figures}


def _entry(variant: Variant, compiled: Sequence[pd.DataFrame], measured: Sequence[pd.DataFrame]) -> dict[str, str]:
    return {
        **_where(variant),
        "expected ratio": f"{variant.ratio:g}: {variant.why}",
        "compiled, at its first shape": "; ".join(_first(variant, rows) for rows in compiled) or "not compiled yet",
        "measured ratio": "; ".join(filter(None, (_found(variant, rows) for rows in measured))) or "not measured yet",
        "kept": variant.kept or "not decided",
    }


def _first(variant: Variant, rows: pd.DataFrame) -> str:
    own = rows[rows["variant"] == variant.name].to_dict("records")
    if not own:
        return "nothing to compile"
    row = own[0]
    if row["refused"]:
        return f"{row['arch']}: refused: {row['refused']}"
    names = {"registers": "registers", "step_barriers": "block barriers", "step_instructions": "instructions a step"}
    figures = ", ".join(f"{what} {arrow(row[f'default_{name}'], row[name])}" for name, what in names.items())
    refused = sum(bool(each["refused"]) for each in own)
    return f"{row['arch']}: {figures}" + (f"; refused at {refused} of {len(own)} trials" if refused else "")


def _found(variant: Variant, rows: pd.DataFrame) -> str:
    own = rows[rows["variant"] == variant.name].to_dict("records")
    return f"{own[0]['device']}: " + ", ".join(f"{title(row)} {ratio(row)}" for row in own) if own else ""

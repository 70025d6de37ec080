"""Figures as a report writes them: ratios, counts, means, and the shapes that they are of."""

from __future__ import annotations

from math import exp

import numpy as np
import pandas as pd


def shape(row: pd.Series | dict) -> str:
    """A row's shape: ``lstm H256 B32 T35 I28 3 layers``."""
    return " ".join([row["cell"], *(f"{name}{row[name]}" for name in ("H", "B", "T", "I")), depth(row)]).strip()


def places(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Columns of a table that say which group each of the rows is of."""
    shapes = [shape(row) for row in rows.to_dict("records")]
    return {"shape": shapes, "dtype": rows["dtype"].tolist(), "mode": rows["mode"].tolist()}


def depth(row: pd.Series | dict) -> str:
    """What isn't plain of a shape: ``3 layers, both directions, half full, kraken``."""
    layers = f"{row['layers']} layers" if row["layers"] > 1 else ""
    both = "both directions" if row["bidirectional"] == "True" else ""
    heads = f"{row['heads']} heads" if row.get("heads", 1) > 1 else ""
    full = f"{percent(row['fill'])} full" if row.get("fill", 1.0) < 1 else ""
    return ", ".join(part for part in (layers, both, heads, full, row["shape_name"]) if part)


def counted(values: pd.Series) -> str:
    """Values with their counts: ``vendor``, or ``vendor 5, eager 2`` where they differ."""
    counts = values.value_counts(sort=False)
    return counts.index[0] if len(counts) == 1 else ", ".join(f"{name} {n}" for name, n in counts.items())


def span(values: pd.Series) -> str:
    return str(values.min()) if values.nunique() == 1 else f"{values.min()} to {values.max()}"


def geometric(values: pd.Series) -> float:
    """The geometric mean of what is there, NaN where nothing is."""
    there = values.dropna()
    return exp(np.log(there).mean()) if len(there) else float("nan")


def mean(values: pd.Series) -> str:
    """The geometric mean of factors."""
    return times(geometric(values))


def times(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def digits(value: float) -> str:
    """Three digits that count: 0.123, 12.3, 1234."""
    return "-" if np.isnan(value) else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def percent(part: float) -> str:
    """A part as percents: ``0.456`` -> ``46 %``."""
    return "-" if np.isnan(part) else f"{100 * part:.2g} %" if abs(part) < 0.1 else f"{100 * part:.0f} %"


def number(count: int, noun: str) -> str:
    """A count with its noun: ``1 row``, ``2 rows``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

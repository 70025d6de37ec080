"""Tables and figures as reports print them."""

from __future__ import annotations

from math import exp

import numpy as np
import pandas as pd


def markdown(frame: pd.DataFrame) -> str:
    """A table; numbers stand as they are, a bar in a text is escaped. pandas' own needs another package."""
    cells = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(object).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in cells)


def shape(row: pd.Series) -> str:
    return " ".join([row["cell"], *(f"{name}{row[name]}" for name in ("H", "B", "T", "I")), depth(row)]).strip()


def depth(row: pd.Series) -> str:
    """``3 layers, both directions, kraken``, of it what isn't plain."""
    layers = f"{row['layers']} layers" if row["layers"] > 1 else ""
    both = "both directions" if row["bidirectional"] == "True" else ""
    return ", ".join(part for part in (layers, both, row["shape_name"]) if part)


def counted(values: pd.Series) -> str:
    counts = values.value_counts(sort=False)
    return counts.index[0] if len(counts) == 1 else ", ".join(f"{name} {n}" for name, n in counts.items())


def span(values: pd.Series) -> str:
    return str(values.min()) if values.nunique() == 1 else f"{values.min()} to {values.max()}"


def mean(values: pd.Series) -> str:
    """The geometric mean."""
    return times(exp(np.log(values.dropna()).mean())) if values.notna().any() else times(float("nan"))


def times(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}x" if value < 10 else f"{value:.0f}x"


def digits(value: float) -> str:
    """Three digits that count: 0.123, 12.3, 1234."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"

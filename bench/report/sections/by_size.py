"""Shapes laid out by H and B."""

from __future__ import annotations

import pandas as pd

from ..document.figures import depth

# Shapes of the smallest grid.
LEAST = 4

_LINE = ("H", "T", "I", "network")


def is_grid(rows: pd.DataFrame) -> bool:
    """The shapes have no names, several batches were measured, and a table by H and B would be filled by half at least.

    Args:
        rows: one of each shape.
    """
    lines = _lines(rows)
    size = len(lines.drop_duplicates()) * rows["B"].nunique()
    return not lines["network"].any() and rows["B"].nunique() > 1 and len(rows) >= LEAST and 2 * len(rows) >= size


def by_size(rows: pd.DataFrame, texts: list[str]) -> pd.DataFrame:
    """A table with a line for each H, T and I, and a column for each B.

    Args:
        texts: what stands for each of the rows.
    """
    lines = _lines(rows).assign(B=rows["B"], text=texts)
    table = lines.pivot(index=list(_LINE), columns="B", values="text").sort_index()
    table.columns = pd.Index([f"B {B}" for B in table.columns])
    table = table.reset_index().fillna("")
    if (table["I"] == table["H"]).all():
        table = table.drop(columns="I")
    return table if table["network"].any() else table.drop(columns="network")


def _lines(rows: pd.DataFrame) -> pd.DataFrame:
    network = [
        depth(row) for row in rows[["layers", "bidirectional", "heads", "fill", "shape_name"]].to_dict("records")
    ]
    return rows[["H", "T", "I"]].assign(network=network)

"""What other cells cost beside an LSTM of the same size, by the operations of their products."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ...storage.results import AUTO, Results
from ..document.blocks import Block, Heading, Table
from ..document.figures import geometric, mean

_LSTM = "lstm"
_SAME = ["H", "B", "T", "I", "layers", "bidirectional", "heads", "fill", "dtype", "mode"]


def beside_lstm(ok: pd.DataFrame) -> pd.DataFrame:
    """auto's rows of other cells that were measured at an LSTM's size too.

    Returns:
        The rows with ``time`` and ``work``, over the LSTM's: seconds of a call, and operations of its products.
    """
    auto = ok[(ok["contender"] == AUTO) & ok["flop"].notna()]
    lstm = auto[auto["cell"] == _LSTM].drop_duplicates(_SAME)[[*_SAME, "p50", "flop"]]
    both = auto[auto["cell"] != _LSTM].merge(lstm, on=_SAME, suffixes=("", "_lstm"))
    return both.assign(time=both["p50"] / both["p50_lstm"], work=both["flop"] / both["flop_lstm"])


def section(results: Results) -> Iterator[Block]:
    """A line for each cell and mode."""
    both = beside_lstm(results.ok)
    if both.empty:
        return
    yield Heading("What a cell costs beside an LSTM")
    yield (
        f"By `{AUTO}`, at sizes at which both were measured, as geometric means: the time of a call and the operations "
        "of its products over the LSTM's, and the one over the other, which is 1 where a cell is as fast for its size."
    )
    lines = []
    for (cell, dtype, mode), some in both.groupby(["cell", "dtype", "mode"], sort=False):
        line = {"cell": cell, "dtype": dtype, "mode": mode, "shapes": str(len(some))}
        line |= {"time": mean(some["time"]), "operations": mean(some["work"])}
        lines.append(line | {"time for its operations": f"{geometric(some['time'] / some['work']):.2f}"})
    yield Table(pd.DataFrame(lines))

"""Two runs of a sweep, row by row: whether they agree, and what may be said where they don't."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...storage.results import Results
from ...storage.sweep_table import GROUP
from ..document.blocks import Block, Heading, Table
from ..document.figures import digits, mean, number, percent, places

# Two runs agree if half of their rows differ by no more.
AGREE = 0.03
# Changes that are listed one by one.
LISTED = 10
# What must be the same besides the code for a difference to be the machine's.
_SAME = ("torch", "triton", "threads", "gpu_driver", "cuda", "cudnn", "tf32", "python")


def section(results: Results, earlier: Results) -> Iterator[Block]:
    """What the earlier run says about this one.

    Raises:
        ValueError: the runs are of different devices.
    """
    devices = [run.last["device"] for run in (results, earlier)]
    if devices[0] != devices[1]:
        raise ValueError(f"against must be a run of the same device, {devices[0]}. Got {devices[1]}.")
    both = shared(results, earlier)
    yield Heading("Against another run")
    yield f"The other run is of {earlier.last['date']}, at commit {earlier.last['commit'][:10]}."
    yield verdict(both)
    if both.empty:
        return
    lines = []
    for name, some in both.groupby("contender", sort=False):
        lines.append(
            {
                "contender": name,
                "rows": str(len(some)),
                "now over then, mean": mean(some["ratio"]),
                "half differ by at most": percent(some["change"].median()),
                "intervals that don't meet": str(some["apart"].sum()),
            }
        )
    yield Table(pd.DataFrame(lines))
    changed = both[both["apart"]].sort_values("change", ascending=False, kind="stable").head(LISTED)
    if len(changed):
        yield "The largest changes:"
        yield Table(
            pd.DataFrame(
                {
                    **places(changed),
                    "contender": changed["contender"].to_numpy(),
                    "then, us a step": [digits(v) for v in changed["us_per_step_then"]],
                    "now, us a step": [digits(v) for v in changed["us_per_step"]],
                    "now over then": [digits(v) for v in changed["ratio"]],
                }
            )
        )


def shared(results: Results, earlier: Results) -> pd.DataFrame:
    """The rows that have a time in both runs.

    Returns:
        This run's, with the other's columns as ``*_then`` and the columns ``ratio`` (time now over then), ``change``
        (by how much the larger exceeds the smaller, as a part), ``apart`` (the intervals from the 20 % to the 80 %
        quantile don't meet) and ``same`` (only the machine can have made the difference: the same software, and the
        same commit or code that isn't gatefuse's).
    """
    both = results.ok.merge(earlier.ok, on=[*GROUP, "contender"], suffixes=("", "_then"))
    ratio = both["p50"] / both["p50_then"]
    software = np.logical_and.reduce([both[name] == both[f"{name}_then"] for name in _SAME])
    clean = (both["tree"] == "clean") & (both["tree_then"] == "clean")
    code = (both["driver"] == "") & (both["driver_then"] == "") | clean & (both["commit"] == both["commit_then"])
    return both.assign(
        ratio=ratio,
        change=np.maximum(ratio, 1 / ratio) - 1,
        apart=(both["p20"] > both["p80_then"]) | (both["p80"] < both["p20_then"]),
        same=software & code,
    )


def verdict(both: pd.DataFrame) -> str:
    """In a paragraph: the runs agree, the machine is noisy, or nothing can be said about that."""
    if both.empty:
        return "No row has a time in both runs, so nothing can be said about noise."
    same = both[both["same"]]
    if same.empty:
        return (
            f"{number(len(both), 'row')} can be compared, but all were measured with other software or with code that "
            "may have changed in between: nothing can be said about noise."
        )
    rest = len(both) - len(same)
    left = f" {number(rest, 'row')} more were measured with code that may have changed, and count for nothing here."
    half, tenth = same["change"].quantile([0.5, 0.9])
    figures = (
        f"half of the {number(len(same), 'row')} in which only the machine can have made a difference differ by at "
        f"most {percent(half)}, a tenth by over {percent(tenth)}, and the median row takes "
        f"{same['ratio'].median():.3f} times what it took.{left if rest else ''}"
    )
    if half <= AGREE:
        return f"**The two runs agree within {percent(AGREE)}**: {figures}"
    return (
        f"**The machine is noisy, or it has changed between the runs**: {figures} Where runs agree, half differ by at "
        f"most {percent(AGREE)}. Compare contenders of one run, which took turns, and trust no small difference."
    )

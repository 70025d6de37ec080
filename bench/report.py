"""Rows -> markdown. Imports neither torch nor gatefuse; every figure is computed from the CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from .markdown import counted, depth, digits, markdown, mean, shape, span, times
from .table import GROUP, SHAPE, read

AUTO, TORCH = "gatefuse auto", "torch.nn"


def write(csv: Path) -> Path:
    """Write the report of a CSV beside it, as .md.

    Raises:
        ValueError: the file has no rows.
    """
    path = csv.with_suffix(".md")
    path.write_text(render(read(csv), csv.stem), encoding="utf-8")
    return path


def summary(rows: pd.DataFrame, sweep: str) -> str:
    """What a first page shows: where it was measured, every contender's mean, and how often auto loses."""
    ok = rows[rows["status"] == "ok"]
    _, *contenders = _contenders(ok)
    _, losses, *_ = _losses(ok)
    last = rows.iloc[-1]
    with_what = f"Measured {last['date']} with torch {last['torch']}, at commit {last['commit'][:10]} ({last['tree']})."
    return "\n\n".join([_opening(rows, sweep), *_caution(rows), *contenders, losses, with_what])


def render(rows: pd.DataFrame, sweep: str) -> str:
    """The report: the answer first, then the tables, what is missing, and where it was measured.

    Raises:
        ValueError: there are no rows.
    """
    if rows.empty:
        raise ValueError("rows must hold at least one row. Got none.")
    ok = rows[rows["status"] == "ok"]
    parts = [
        _opening(rows, sweep),
        *_caution(rows),
        *_answer(ok),
        *_losses(ok),
        *_contenders(ok),
        *_reading(rows, ok),
        *_tables(ok),
        *_missing(rows),
        *_stamps(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(rows: pd.DataFrame, sweep: str) -> str:
    last = rows.iloc[-1]
    groups = len(rows.drop_duplicates(list(GROUP)))
    what = f"sweep {sweep}, {groups} groups of shape, dtype and mode"
    if last["kind"] == "cpu":
        return (
            f"**This is a CPU report**: {what}, on {last['cpu']}; threads: {last['threads']}. "
            "It says nothing about a GPU, and the Triton kernels did not run."
        )
    return f"**GPU report**: {what}, on {last['gpu']}."


def _caution(rows: pd.DataFrame) -> Iterator[str]:
    busy = rows[rows["load"] > rows["cores"] / 4]
    if len(busy):
        run = busy.sort_values("load").iloc[-1]
        yield (
            f"**The machine was busy**: its load was {run['load']:.2g} on {run['cores']} cores when the run began. "
            "That slows calls that share work between threads most, as they wait for each other; see the width of the "
            "intervals below. OMP_NUM_THREADS=1 measures one thread alone."
        )


def _answer(ok: pd.DataFrame) -> Iterator[str]:
    yield "## How much faster gatefuse is"
    auto = ok[ok["contender"] == AUTO]
    if auto.empty:
        yield f"{AUTO} was not measured."
        return
    torch_p50 = ok[ok["contender"] == TORCH].set_index(list(GROUP))["p50"]
    auto = auto.assign(over_torch=auto.set_index(list(GROUP)).index.map(torch_p50.to_dict()).to_numpy() / auto["p50"])
    lines = []
    for (cell, dtype, mode), some in auto.groupby(["cell", "dtype", "mode"], sort=False):
        lines.append(
            {
                "cell": cell,
                "dtype": dtype,
                "mode": mode,
                "shapes": len(some),
                "driver": counted(some["driver"]),
                "over eager": mean(some["speedup"]),
                "worst over eager": times(some["speedup"].min()),
                "eager is": ", ".join(some["baseline"].unique()),
                "over torch.nn": mean(some["over_torch"]),
                "worst over torch.nn": times(some["over_torch"].min()),
            }
        )
    yield (
        f"Speed-up of `{AUTO}`, the driver that gatefuse picks by itself, as geometric mean over the shapes and in the "
        "worst of them, over the plain PyTorch loop named in its column and over torch.nn. Below 1 it is slower; "
        "a dash stands where there is nothing to compare with."
    )
    yield markdown(pd.DataFrame(lines))


def _contenders(ok: pd.DataFrame) -> Iterator[str]:
    yield "## Every contender"
    if ok.empty:
        yield "Nothing could be measured."
        return
    yield (
        "Speed-up over the group's eager baseline, marked with a star, as geometric mean over the shapes of a cell and "
        "mode that the contender ran."
    )
    lines = []
    for (cell, dtype, mode), some in ok.groupby(["cell", "dtype", "mode"], sort=False):
        line = {"cell": cell, "dtype": dtype, "mode": mode, "shapes": str(some.groupby(list(SHAPE)).ngroups)}
        for name, group in some.groupby("contender", sort=False):
            line[str(name)] = "*" if (group["contender"] == group["baseline"]).all() else mean(group["speedup"])
        lines.append(line)
    yield markdown(pd.DataFrame(lines).fillna(""))


def _losses(ok: pd.DataFrame) -> Iterator[str]:
    yield "## Where it loses"
    both = ok[ok["contender"] == AUTO].merge(
        ok[ok["contender"] == TORCH][[*GROUP, "p20", "p50", "p80"]], on=list(GROUP), suffixes=("", "_torch")
    )
    if both.empty:
        yield "No shape was measured with both gatefuse and torch.nn."
        return
    worse = both[both["p20"] > both["p80_torch"]]
    better = both[both["p80"] < both["p20_torch"]]
    yield (
        f"Of {len(both)} groups in which torch.nn runs too, {AUTO} is slower in {len(worse)} and faster in "
        f"{len(better)}, counting those where the intervals from the 20 % to the 80 % quantile don't meet; they do in "
        f"the other {len(both) - len(worse) - len(better)}."
    )
    if len(worse):
        table = worse.assign(ratio=worse["p50"] / worse["p50_torch"]).sort_values("ratio", ascending=False)
        yield markdown(
            pd.DataFrame(
                {
                    "shape": [shape(row) for _, row in table.iterrows()],
                    "dtype": table["dtype"].to_numpy(),
                    "mode": table["mode"].to_numpy(),
                    "driver": table["driver"].to_numpy(),
                    "gatefuse, us a step": [digits(v) for v in table["us_per_step"]],
                    "torch.nn, us a step": [digits(v) for v in table["p50_torch"] * 1e6 / table["T"]],
                    "times as long": [digits(v) for v in table["ratio"]],
                }
            )
        )


def _reading(rows: pd.DataFrame, ok: pd.DataFrame) -> Iterator[str]:
    yield "## How to read the tables"
    if ok.empty:
        yield "Nothing could be measured."
        return
    if rows.iloc[-1]["kind"] == "cpu":
        timing = "Times are wall time."
        memory = "Peak memory is not given: torch keeps no such count on a CPU."
    else:
        timing = (
            "Times lie between two CUDA events, with the L2 cache flushed before each sample; a call that the host "
            "can't feed fast enough is measured at the host's pace."
        )
        memory = "Peak memory, in the CSV, is what a call holds at most beyond weights and input."
    spread = ((ok["p80"] - ok["p20"]) / ok["p50"] * 100).quantile([0.5, 0.9])
    first = ok.groupby("contender", sort=False)["first_call_seconds"].max()
    yield (
        f"Microseconds a step: the median of {span(ok['samples'])} samples over T, and the speed-up over the group's "
        "eager baseline, which is marked with a star. Contenders took turns, one sample each a round, each round in "
        f"another order. The interval from the 20 % to the 80 % quantile is {spread[0.5]:.0f} % of the median wide in "
        f"half of the rows, and over {spread[0.9]:.0f} % in a tenth. {timing} forward runs without autograd; training "
        "is a forward and a backward pass with the "
        f"gradients of input and weights. {memory}"
    )
    yield (
        "Before it was timed, each contender's output, and in training the gradient of its input, was compared with "
        f"float64; the largest error, relative to the largest value, is {ok['error'].max():.2g}. The longest first "
        f"call, compilation included: {', '.join(f'{name} {s:.2g} s' for name, s in first.items())}."
    )


def _tables(ok: pd.DataFrame) -> Iterator[str]:
    for (cell, dtype, mode), some in ok.groupby(["cell", "dtype", "mode"], sort=False):
        yield f"## {cell}, {mode}, {dtype}"
        lines = []
        for _, group in some.groupby(list(SHAPE), sort=False):
            first = group.iloc[0]
            line = {name: str(first[name]) for name in ("H", "B", "T", "I")}
            line["network"] = depth(first)
            for _, row in group.iterrows():
                base = row["contender"] == row["baseline"]
                speedup = "*" if base else "" if np.isnan(row["speedup"]) else f" ({times(row['speedup'])})"
                line[row["contender"]] = f"{digits(row['us_per_step'])}{speedup}"
            lines.append(line)
        table = pd.DataFrame(lines).fillna("")
        order = [name for name in table if name != "network"] + ["network"]
        yield markdown(table[order] if table["network"].any() else table.drop(columns="network"))


def _missing(rows: pd.DataFrame) -> Iterator[str]:
    failed = rows[rows["status"] == "failed"]
    if len(failed):
        yield "## Failures"
        yield markdown(
            pd.DataFrame(
                {
                    "shape": [shape(row) for _, row in failed.iterrows()],
                    "dtype": failed["dtype"].to_numpy(),
                    "mode": failed["mode"].to_numpy(),
                    "contender": failed["contender"].to_numpy(),
                    "error": failed["note"].to_numpy(),
                }
            )
        )
    out = rows[rows["status"] == "left out"]
    if len(out):
        yield "## Not measured"
        table = out.groupby(["contender", "note"], sort=False).agg(
            cells=("cell", lambda cells: ", ".join(dict.fromkeys(cells))), groups=("cell", "size")
        )
        yield markdown(table.reset_index().rename(columns={"note": "why"})[["contender", "cells", "groups", "why"]])


def _stamps(rows: pd.DataFrame) -> Iterator[str]:
    yield "## Measured with"
    names = list(rows.columns[rows.columns.get_loc("device") :])
    for _, run in rows.drop_duplicates(names).iterrows():
        yield "\n".join(f"- {name.replace('_', ' ')}: {run[name]}" for name in names if str(run[name]))

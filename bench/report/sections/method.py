"""Why to believe a report: how it was measured, errors, widths of intervals; then what is missing, and the stamp."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ...storage.results import DERIVED, TORCH, Results
from ..document.blocks import Block, Heading, Items, Table
from ..document.figures import digits, number, percent, places, span

# Broken lines that are named one by one.
NAMED = 20


def reading(results: Results) -> Iterator[Block]:
    """How it was measured."""
    yield Heading("How it was measured, and why to believe it")
    ok = results.ok
    if ok.empty:
        yield "Nothing could be measured."
        return
    if results.on_cpu:
        timing = "Times are wall time."
        memory = "Peak memory is not given: torch keeps no such count on a CPU."
    else:
        timing = (
            "Times lie between two CUDA events, with the L2 cache flushed before each sample; a call that the host "
            "can't feed fast enough is measured at the host's pace."
        )
        memory = "Peak memory is what a call holds at most beyond weights and input."
    spread = ((ok["p80"] - ok["p20"]) / ok["p50"]).quantile([0.5, 0.9])
    yield (
        f"Microseconds a step: the median of {span(ok['samples'])} samples over T. Contenders have the same weights "
        "and took turns, one sample each a round, each round in another order, so that a machine that slows down slows "
        "all of them. The interval from the 20 % to the 80 % quantile is "
        f"{percent(spread[0.5])} of the median wide in half of the rows, and over {percent(spread[0.9])} in a tenth; "
        "a win or a loss is counted only where two intervals don't meet. "
        f"{timing} forward runs without autograd; training is a forward and a backward pass with the gradients of "
        f"input and weights. {memory}"
    )
    yield from _errors(ok)
    yield from _limit(ok)


def _errors(ok: pd.DataFrame) -> Iterator[Block]:
    yield (
        "Before it was timed, each contender's output, and in training the gradient of its input, was compared with "
        f"float64; the largest error, relative to the largest value, is {ok['error'].max():.2g}. By dtype, for "
        "gatefuse's own and for the others:"
    )
    whose = ok["contender"].where(ok["contender"] == TORCH, "others").where(ok["driver"] == "", "gatefuse")
    lines = []
    for (dtype, mode), some in ok.groupby(["dtype", "mode"], sort=False):
        errors = some.groupby(whose)["error"].max()
        worst = {name: f"{errors[name]:.1e}" if name in errors else "-" for name in ("gatefuse", TORCH, "others")}
        lines.append({"dtype": dtype, "mode": mode, **worst})
    yield Table(pd.DataFrame(lines))


def _limit(ok: pd.DataFrame) -> Iterator[Block]:
    known = ok[ok["floor_seconds"].notna()]
    if known.empty:
        return
    rates = [
        f"{dtype} {digits(some['matrix_rate'].median() / 1e12)} TFLOP/s"
        for dtype, some in known.groupby("dtype", sort=False)
        if some["matrix_rate"].notna().any()
    ]
    text = f"The limit was measured in the same run: a large product ({', '.join(rates)})"
    if known["copy_rate"].notna().any():
        text += f", a large copy ({digits(known['copy_rate'].median() / 1e9)} GB/s)"
    if (known["barrier_seconds"] > 0).any():
        text += f", an empty barrier ({digits(known['barrier_seconds'].median() * 1e6)} us)"
    over = known[known["floor_share"] > 1]
    if len(over):
        text += (
            f". {number(len(over), 'row')} took less than that; the share is {percent(over['floor_share'].max())} at "
            "most. There the limit is too high, as caches hold what it counts as moved"
        )
    yield text + "."


def missing(results: Results) -> Iterator[Block]:
    """What failed, what was left out and why, and which lines of the file can't be used."""
    failed = results.rows[results.rows["status"] == "failed"]
    if len(failed):
        yield Heading("Failures")
        yield Table(
            pd.DataFrame(
                {**places(failed), "contender": failed["contender"].to_numpy(), "error": failed["note"].to_numpy()}
            )
        )
    out = results.rows[results.rows["status"] == "left out"]
    if len(out):
        yield Heading("Not measured")
        table = out.groupby(["contender", "note"], sort=False).agg(
            cells=("cell", lambda cells: ", ".join(dict.fromkeys(cells))), groups=("cell", "size")
        )
        yield Table(table.reset_index().rename(columns={"note": "why"})[["contender", "cells", "groups", "why"]])
    if results.skipped:
        yield Heading("Skipped")
        yield f"Of the file's lines {len(results.skipped)} can't be used, and count nowhere:"
        rest = len(results.skipped) - NAMED
        yield Items((*results.skipped[:NAMED], *([f"and {rest} more"] if rest > 0 else [])))


def stamps(results: Results) -> Iterator[Block]:
    """With what it was measured, one list a run."""
    yield Heading("Measured with")
    names = [name for name in results.rows.columns[results.rows.columns.get_loc("device") :] if name not in DERIVED]
    for run in results.rows.drop_duplicates(names).to_dict("records"):
        yield Items(tuple(f"{name.replace('_', ' ')}: {run[name]}" for name in names if str(run[name])))

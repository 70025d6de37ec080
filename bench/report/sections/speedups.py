"""How much faster gatefuse is, and where it loses: the first that a report says."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ...storage.results import AUTO, FEW, TORCH, Results, duels
from ..document.blocks import Block, Heading, Table
from ..document.figures import counted, digits, geometric, mean, number, percent, places, shape, times

# Losses that are listed one by one; a sweep of thousands of shapes may have many.
LISTED = 30


_WHY_UNTOLD = f"the machine was busy, and both ran the same code or one has {FEW} samples at most"


def headline(results: Results) -> str:
    """One figure with its conditions, for a first page."""
    last, found = results.last, []
    over_torch, over_loop = duels(results.ok, TORCH), duels(results.ok, "baseline")
    alone = over_loop[~over_loop["cell"].isin(over_torch["cell"])]
    for both, what in (
        (alone, "a plain PyTorch loop over the same equations, for cells that torch.nn doesn't have"),
        (over_torch, "torch.nn, for those that it has"),
    ):
        if len(both):
            found.append(
                f"**{geometric(both['over']):.2f} times as fast as {what}**, in the geometric mean over "
                f"{number(len(both), 'group')} of cell, size and mode, and slower in {both['slower'].sum()}"
            )
    threads = f" with {last['threads']} threads" if results.on_cpu else ""
    kinds = [" and ".join(results.ok[name].unique()) for name in ("dtype", "mode")]
    return (
        f"{'; '.join(found)}. Measured on {results.where}{threads}, torch {last['torch']}, "
        f"{last['date'].partition(' ')[0]}, in {kinds[0]}, {kinds[1]}."
    )


def verdict(results: Results) -> Iterator[Block]:
    """In words: how often auto loses, to whom, and by how much at worst."""
    for rival, its_name in ((TORCH, TORCH), ("baseline", "the plain PyTorch loop")):
        both = duels(results.ok, rival)
        if both.empty:
            yield f"No shape was measured with both gatefuse and {its_name}."
            continue
        slower, faster = both["slower"].sum(), both["faster"].sum()
        same = (both["driver"] == "vendor").sum() if rival == TORCH else 0
        met = number(len(both), "group")
        text = f"**Beside {its_name}**, in {met}, {AUTO} is slower in {slower} and faster in {faster}"
        if both["untold"].all():
            yield f"**Beside {its_name} there is no telling**: {_WHY_UNTOLD} in all of {met}."
            continue
        text += f", and {times(geometric(both['over']))} as fast in the geometric mean"
        if untold := both["untold"].sum():
            text += f" of {len(both) - untold}; in {untold} there is no telling, as {_WHY_UNTOLD}"
        if slower:
            worst = both[both["slower"]].sort_values("over").iloc[0]
            text += (
                f"; at worst it takes {1 / worst['over']:.2f} times as long as {worst['contender_rival']}: "
                f"{shape(worst)}, {worst['dtype']}, {worst['mode']}"
            )
        yield text + (f". In {same} of these groups it runs torch's own loop itself." if same else ".")
    yield (
        "A group is a cell at one size (H hidden units, B sequences in a batch, T steps, I input features), in one "
        "dtype and one mode: forward, or training, which is forward and backward. Slower and faster count groups in "
        "which the intervals from the 20 % to the 80 % quantile of the two don't meet; in the others there is no "
        "telling."
    )


def speedups(results: Results) -> Iterator[Block]:
    """Speed-ups by cell, dtype and mode."""
    yield Heading("How much faster gatefuse is")
    auto = results.ok[results.ok["contender"] == AUTO]
    if auto.empty:
        yield f"{AUTO} was not measured."
        return
    over_torch, over_eager = duels(results.ok, TORCH), duels(results.ok, "baseline")
    limited = auto["floor_share"].notna().any()
    lines = []
    for key, some in auto.groupby(["cell", "dtype", "mode"], sort=False):
        torch = over_torch[over_torch["group"].isin(some["group"])]
        eager = over_eager[over_eager["group"].isin(some["group"])]
        line = dict(zip(("cell", "dtype", "mode"), key, strict=True))
        line |= {
            "shapes": str(len(some)),
            "driver": counted(some["driver"]),
            "slower than eager": _of(eager),
            "over eager": mean(eager["over"]),
            "worst over eager": times(eager["over"].min()),
            "eager is": ", ".join(some["baseline"].unique()),
            "slower than torch.nn": _of(torch),
            "over torch.nn": mean(torch["over"]),
            "worst over torch.nn": times(torch["over"].min()),
        }
        if limited:
            line |= {
                "of the limit": percent(geometric(some["floor_share"])),
                "least of it": percent(some["floor_share"].min()),
                "limited by": counted(some["floor_by"].replace("", "unknown")),
            }
        lines.append(line)
    yield (
        f"Speed-up of `{AUTO}`, the driver that gatefuse picks by itself, as geometric mean over the shapes and in the "
        "worst of them, over the plain PyTorch loop named in its column and over torch.nn. Below 1 it is slower; "
        "a dash stands where there is nothing to compare with."
    )
    yield Table(pd.DataFrame(lines))
    if limited:
        yield (
            "The limit of a row is the time that its operations or its bytes would take at the rates measured on this "
            "device, plus its barriers; *of the limit* is that over the time it took, 100 % where nothing is left to "
            "gain."
        )
    else:
        yield "The share of the physical limit is not given: these rows hold no limit."


def _of(both: pd.DataFrame) -> str:
    return f"{both['slower'].sum()} of {len(both)}" if len(both) else "-"


def losses(results: Results) -> Iterator[Block]:
    """Every group in which auto is slower than torch.nn or than the plain loop, the worst first."""
    yield Heading("Where it loses")
    both = pd.concat([duels(results.ok, TORCH), duels(results.ok, "baseline")], ignore_index=True)
    if both.empty:
        yield "Nothing was measured that gatefuse could lose to."
        return
    worse = both[both["slower"]].sort_values("over", kind="stable")
    if worse.empty:
        yield f"Nowhere: {AUTO} is slower than neither torch.nn nor the plain loop in any group, beyond the intervals."
        return
    if len(worse) > LISTED:
        yield f"The worst {LISTED} of {len(worse)}:"
    worse = worse.head(LISTED)
    yield Table(
        pd.DataFrame(
            {
                **places(worse),
                "driver": worse["driver"].to_numpy(),
                "slower than": worse["contender_rival"].to_numpy(),
                "gatefuse, us a step": [digits(v) for v in worse["us_per_step"]],
                "the other, us a step": [digits(v) for v in worse["p50_rival"] * 1e6 / worse["T"]],
                "times as long": [digits(1 / v) for v in worse["over"]],
            }
        )
    )

"""Which driver for which shape: the fastest of gatefuse's in each group, and what auto took."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ...storage.results import AUTO, TORCH, VENDOR, Results, unreliable
from ..document.blocks import Block, Heading, Items, Table
from ..document.figures import depth, digits, number, percent, times
from .by_size import by_size, is_grid

# What a reader must know to choose one.
WHAT = {
    "eager": "a Python loop over the equations",
    "script": "the same loop as TorchScript, which torch has deprecated",
    "aten": "a Python loop of torch operators generated from the equations, with a backward of its own",
    "llvm": "machine code for all steps, made of the equations for the CPU at hand",
    "step": "a matrix product and a fused Triton kernel for each step",
    "block": "one Triton kernel for all steps, each of whose programs holds all the recurrent weights",
    "grid": "one Triton kernel for all steps, whose programs share the recurrent weights and wait for each other",
    "vendor": "torch's own loop, that is cuDNN, MIOpen or oneDNN",
}


def picks(ok: pd.DataFrame) -> pd.DataFrame:
    """One line a group in which a driver was measured by name.

    Returns:
        The fastest driver's row, with the columns ``over_torch`` (NaN where torch.nn has no figure), ``auto`` (the
        driver that auto took, "" where auto has no figure), ``auto_longer`` (auto's time over the fastest driver's),
        ``auto_slower`` (beyond the intervals, where there is telling; see duels), ``other`` (the fastest of those that
        are not gatefuse's, "" if none is faster beyond the intervals) and ``other_over`` (the driver's time over the
        other's).
    """
    drivers = ok[(ok["driver"] != "") & (ok["contender"] != AUTO)]
    best = drivers.loc[drivers.groupby("group", sort=False)["p50"].idxmin()]
    others = ok[ok["driver"] == ""]
    others = others.loc[others.groupby("group", sort=False)["p50"].idxmin()]
    best = _join(best, ok[ok["contender"] == TORCH], ("p50",), "torch")
    best = _join(best, ok[ok["contender"] == AUTO], ("driver", "samples", "p20", "p50"), "auto")
    best = _join(best, others, ("contender", "samples", "p50", "p80"), "other")
    theirs = best["contender_other"].map({TORCH: VENDOR}).fillna("")
    beaten = (best["p80_other"] < best["p20"]) & ~unreliable(best, theirs, best["samples_other"])
    untold = unreliable(best, best["driver_auto"].fillna(""), best["samples_auto"])
    return best.assign(
        over_torch=best["p50_torch"] / best["p50"],
        auto=best["driver_auto"].fillna(""),
        auto_longer=best["p50_auto"] / best["p50"],
        auto_slower=(best["p20_auto"] > best["p80"]) & ~untold,
        other=best["contender_other"].where(beaten, ""),
        other_over=(best["p50"] / best["p50_other"]).where(beaten),
    )


def _join(best: pd.DataFrame, rows: pd.DataFrame, columns: tuple[str, ...], suffix: str) -> pd.DataFrame:
    found = rows[["group", *columns]].rename(columns={name: f"{name}_{suffix}" for name in columns})
    return best.merge(found, on="group", how="left")


def verdict(results: Results) -> Iterator[Block]:
    """How often auto took the fastest, and by cell what to take where it did not."""
    best = picks(results.ok)
    best = best[best["auto"] != ""]
    if best.empty:
        return
    slower = best[best["auto_slower"]]
    missed = f", by {slower['auto_longer'].max():.2f} times at worst" if len(slower) else ""
    yield (
        f"**Which driver**: of {number(len(best), 'group')}, what auto took is the fastest, or as fast within the "
        f"intervals, in {len(best) - len(slower)}; in {len(slower)} another driver is faster{missed}"
        f"{'. To ask for by name:' if len(slower) else '; leave it to auto.'}"
    )
    lines = []
    for (cell, driver), some in slower.groupby(["cell", "driver"], sort=False):
        of = (best["cell"] == cell).sum()
        span = " to ".join(dict.fromkeys(f"{v:.2f}" for v in (some["auto_longer"].min(), some["auto_longer"].max())))
        lines.append(f"{cell}: `{driver}` in {len(some)} of {number(of, 'group')}, {span} times as fast as auto's")
    if lines:
        yield Items(tuple(lines))


def section(results: Results) -> Iterator[Block]:
    """The driver for each shape: by H and B where the shapes make a grid, one a line where they don't."""
    yield Heading("Which driver for your shape")
    best = picks(results.ok)
    if best.empty:
        yield "No driver was measured by name."
        return
    yield (
        'The fastest of gatefuse\'s drivers, by median. `Recurrent("lstm", I, H, driver="step")` and every other layer '
        "take one by name; without it auto picks. The drivers:"
    )
    there = results.ok["driver"].unique()
    yield Items(tuple(f"`{name}`: {what}" for name, what in WHAT.items() if name in there))
    grids: list[pd.DataFrame] = []
    lists: list[pd.DataFrame] = []
    for _, some in best.groupby(["cell", "dtype", "mode"], sort=False):
        (grids if is_grid(some) else lists).append(some)
    if lists:
        yield from _list(pd.concat(lists))
    if grids:
        yield (
            "By H and B: the fastest driver and its speed-up over torch.nn, or over the plain loop where torch has no "
            "such cell; behind a semicolon what auto took and how many times as long that takes, where it is slower "
            "beyond the intervals; **bold** where something that isn't gatefuse's is faster still. Below it the "
            "fastest driver's microseconds a step"
            f"{', and in brackets its share of the limit' if best['floor_share'].notna().any() else ''}."
        )
    for some in grids:
        first = some.iloc[0]
        yield Heading(f"{first['cell']}, {first['mode']}, {first['dtype']}: driver", 3)
        over = "over_torch" if some["over_torch"].notna().any() else "speedup"
        yield Table(by_size(some, [_cell(row, over) for row in some.to_dict("records")]))
        yield Heading(f"{first['cell']}, {first['mode']}, {first['dtype']}: us a step", 3)
        yield Table(by_size(some, [_time(row) for row in some.to_dict("records")]))


def _cell(row: dict, over: str) -> str:
    text = f"{row['driver']} {times(row[over])}"
    if row["auto_slower"]:
        text += f"; auto {row['auto']} {row['auto_longer']:.2f}"
    return f"**{text}; {row['other']} faster by {times(row['other_over'])}**" if row["other"] else text


def _time(row: dict) -> str:
    share = "" if pd.isna(row["floor_share"]) else f" ({percent(row['floor_share'])})"
    return digits(row["us_per_step"]) + share


def _list(some: pd.DataFrame) -> Iterator[Block]:
    limit = some["floor_share"].notna().any()
    lines = []
    for row in some.to_dict("records"):
        line = {name: str(row[name]) for name in ("cell", "H", "B", "T", "I")}
        line |= {
            "network": depth(row),
            "dtype": row["dtype"],
            "mode": row["mode"],
            "driver": row["driver"],
            "us a step": digits(row["us_per_step"]),
            "over eager": times(row["speedup"]),
            "over torch.nn": times(row["over_torch"]),
        }
        if limit:
            line["of the limit"] = "-" if pd.isna(row["floor_share"]) else f"{percent(row['floor_share'])}"
            line["limited by"] = row["floor_by"]
        line["auto took"] = row["auto"] or "-"
        line["which is"] = (
            "-" if not row["auto"]
            else f"{row['auto_longer']:.2f} times as long" if row["auto_slower"]
            else "the fastest" if row["auto"] == row["driver"]
            else "as fast"
        )  # fmt: skip
        line["faster still"] = f"{row['other']} by {times(row['other_over'])}" if row["other"] else ""
        lines.append(line)
    table = pd.DataFrame(lines)
    yield Table(table.drop(columns=[name for name in ("network", "faster still") if not table[name].any()]))

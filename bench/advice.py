"""Which driver for which shape: the fastest of gatefuse's in each group, and what auto took."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from .blocks import Block, Heading, Table
from .grid import by_size, is_grid
from .markdown import depth, digits, number, percent, times
from .results import AUTO, TORCH, Results


def picks(ok: pd.DataFrame) -> pd.DataFrame:
    """One line a group in which a driver was measured by name.

    Returns:
        The fastest driver's row, with the columns ``over_torch`` (NaN where torch.nn has no figure), ``auto`` (the
        driver that auto took, "" where auto has no figure), ``auto_longer`` (auto's time over the fastest driver's),
        ``auto_slower`` (beyond the intervals), ``other`` (the fastest of those that are not gatefuse's, "" if none
        is faster beyond the intervals) and ``other_over`` (the driver's time over the other's).
    """
    drivers = ok[(ok["driver"] != "") & (ok["contender"] != AUTO)]
    best = drivers.loc[drivers.groupby("group", sort=False)["p50"].idxmin()]
    others = ok[ok["driver"] == ""]
    others = others.loc[others.groupby("group", sort=False)["p50"].idxmin()]
    best = _join(best, ok[ok["contender"] == TORCH], ("p50",), "torch")
    best = _join(best, ok[ok["contender"] == AUTO], ("driver", "p20", "p50"), "auto")
    best = _join(best, others, ("contender", "p50", "p80"), "other")
    beaten = best["p80_other"] < best["p20"]
    return best.assign(
        over_torch=best["p50_torch"] / best["p50"],
        auto=best["driver_auto"].fillna(""),
        auto_longer=best["p50_auto"] / best["p50"],
        auto_slower=best["p20_auto"] > best["p80"],
        other=best["contender_other"].where(beaten, ""),
        other_over=(best["p50"] / best["p50_other"]).where(beaten),
    )


def _join(best: pd.DataFrame, rows: pd.DataFrame, columns: tuple[str, ...], suffix: str) -> pd.DataFrame:
    found = rows[["group", *columns]].rename(columns={name: f"{name}_{suffix}" for name in columns})
    return best.merge(found, on="group", how="left")


def section(results: Results) -> Iterator[Block]:
    """The driver for each shape: by H and B where the shapes make a grid, one a line where they don't."""
    yield Heading("Which driver for your shape")
    best = picks(results.ok)
    if best.empty:
        yield "No driver was measured by name."
        return
    with_auto = best[best["auto"] != ""]
    slower = with_auto[with_auto["auto_slower"]]
    missed = f", by {slower['auto_longer'].max():.2f} times at worst" if len(slower) else ""
    yield (
        "The fastest of gatefuse's drivers, by median. `driver=` takes its name; without it auto picks. "
        f"Of {number(len(with_auto), 'group')}, what auto took is the fastest, or as fast within the intervals, in "
        f"{len(with_auto) - len(slower)}; in {len(slower)} another driver is faster{missed}."
    )
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

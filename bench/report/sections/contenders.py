"""Every contender: means, each shape, sequences that are not full, first calls, what the host costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from ...storage.results import AUTO, PACKED, TORCH, Results, duels
from ...storage.sweep_table import SHAPE
from ..document.blocks import Block, Heading, Items, Table
from ..document.figures import depth, digits, geometric, mean, number, percent, times
from .drivers import WHAT

# Terms of the tables; a driver's is in drivers.WHAT.
_WHAT = {
    "hand-written loop": "the cell in plain PyTorch as a careful person writes it: one product of the input for all "
    "steps, as few operations a step as the equations allow",
    "scratch 8 products": "an LSTM by hand, as tutorials begin: for each of its four gates a product of the input and "
    "one of the state",
    "scratch 2 products": "the same with the gates side by side: one product of the input, one of the state",
    "scratch d2l GRU": "the GRU of Dive into Deep Learning, by hand",
    "scratch article": "the LSTM by hand with two products, and the peepholes of a widely copied article",
    AUTO: "the driver that gatefuse picks by itself",
    PACKED: "a layer on input that is packed beforehand",
    "gatefuse Stepper": "one step, on weights that were laid out once and in memory that is held",
    TORCH: "torch's own layer",
    "torch.nn padded": "the same over what lies beyond a sample's end too",
    "torch.compile step": "one step compiled by torch.compile, in a Python loop",
}

_SIZES = ("H", "B", "T", "I")
_SHOWN = (*SHAPE, "group", "contender", "baseline", "us_per_step", "speedup")  # a row as a dict costs by the column


def contenders(results: Results) -> Iterator[Block]:
    """Each contender's mean speed-up by cell, dtype and mode."""
    yield Heading("Every contender")
    if results.ok.empty:
        yield "Nothing could be measured."
        return
    yield (
        "Speed-up over the group's eager baseline, marked with a star, as geometric mean over the shapes of a cell and "
        "mode that the contender ran."
    )
    lines = []
    for key, some in results.ok.groupby(["cell", "dtype", "mode"], sort=False):
        line = dict(zip(("cell", "dtype", "mode"), key, strict=True)) | {"shapes": str(some["group"].nunique())}
        for name, group in some.groupby("contender", sort=False):
            line[str(name)] = "*" if (group["contender"] == group["baseline"]).all() else mean(group["speedup"])
        lines.append(line)
    yield Table(pd.DataFrame(lines).fillna(""))
    yield Items(tuple(_terms(results.ok["contender"].unique())))


def beside_others(results: Results) -> Iterator[Block]:
    """Mean speed-ups of auto and of what somebody could use in its place, a line a cell: for a first page."""
    if results.ok.empty:
        yield "Nothing could be measured."
        return
    own = [name for name in results.ok["contender"].unique() if name not in (AUTO, TORCH) and _what(name)]
    shown = results.ok[~results.ok["contender"].isin([*own, *results.ok["baseline"].unique()])]
    if shown.empty:
        yield "Nothing but the plain loop was measured that somebody could use."
        return
    keys = ["cell"] if results.ok["dtype"].nunique() == 1 else ["cell", "dtype"]
    shapes = results.ok.groupby([*keys, "mode"], sort=False)["group"].nunique().groupby(keys, sort=False).max()
    means = shown.groupby([*keys, "contender", "mode"], sort=False)["speedup"].agg(mean).unstack(["contender", "mode"])
    order = {AUTO: 0, TORCH: 1}
    columns = sorted(means, key=lambda both: order.get(both[0], 2))
    table = pd.DataFrame({"shapes": shapes.astype(str)} | {", ".join(both): means[both] for both in columns})
    yield "Times as fast as the plain PyTorch loop over the same equations, as geometric mean over a cell's shapes."
    yield Table(table.loc[shapes.index].fillna("").reset_index())


def _what(name: str) -> str | None:
    """What a contender is; None for a package of its own."""
    return _WHAT.get(name) or WHAT.get(name.removeprefix("gatefuse "))


def _terms(names: Iterable[str]) -> Iterator[str]:
    """A line for each contender that isn't a package of its own."""
    for name in names:
        if what := _what(name):
            yield f"*{name}*: {what}"


def tables(results: Results) -> Iterator[Block]:
    """Microseconds a step of every contender at every shape."""
    if results.ok.empty:
        return
    yield Heading("Every shape")
    yield "Microseconds a step, and the speed-up over the group's eager baseline, which is marked with a star."
    for (cell, dtype, mode), some in results.ok.groupby(["cell", "dtype", "mode"], sort=False):
        yield Heading(f"{cell}, {mode}, {dtype}", 3)
        lines: dict[int, dict[str, str]] = {}
        for row in some[list(_SHOWN)].to_dict("records"):
            line = lines.setdefault(row["group"], {name: str(row[name]) for name in _SIZES} | {"network": depth(row)})
            base = row["contender"] == row["baseline"]
            speedup = "*" if base else "" if pd.isna(row["speedup"]) else f" ({times(row['speedup'])})"
            line[row["contender"]] = digits(row["us_per_step"]) + speedup
        table = pd.DataFrame(list(lines.values())).fillna("")
        order = [name for name in table if name != "network"] + ["network"]
        yield Table(table[order] if table["network"].any() else table.drop(columns="network"))


def lengths(results: Results) -> Iterator[Block]:
    """What sequences that end early cost, beside the same shape with full ones."""
    if not (results.ok["fill"] < 1).any():
        return
    yield Heading("Sequences of several lengths")
    yield (
        "Milliseconds a call, and in brackets the part of the time that the same contender takes where every sample is "
        "full. A contender that skips what isn't there would come close to the fill; one that computes everything "
        "stays at 100 %."
    )
    whole = [name for name in SHAPE if name not in ("fill", "shape_name")]
    keys = [*whole, "dtype", "mode"]
    full = results.ok[results.ok["fill"] == 1].groupby([*keys, "contender"], sort=False)["p50"].first().to_dict()
    varied = results.ok.groupby(keys, sort=False)["fill"].transform("min") < 1
    lines: dict[tuple, dict[str, str]] = {}
    for row in results.ok[varied].sort_values("fill", ascending=False, kind="stable").to_dict("records"):
        key = tuple(row[name] for name in keys)
        first = {name: str(row[name]) for name in ("cell", *_SIZES)}
        first |= {"network": depth({**row, "fill": 1.0, "shape_name": ""}), "dtype": row["dtype"], "mode": row["mode"]}
        line = lines.setdefault((key, row["fill"]), first | {"fill": percent(row["fill"])})
        text = digits(row["p50"] * 1e3)
        if row["fill"] < 1 and (key := (*key, row["contender"])) in full:
            text += f" ({percent(row['p50'] / full[key])})"
        line[row["contender"]] = text
    table = pd.DataFrame(list(lines.values())).fillna("")
    yield Table(table if table["network"].any() else table.drop(columns="network"))
    for beside, whose in (
        (AUTO, "the same layer on padded input"),
        (TORCH, "torch.nn, its packing and padding included"),
    ):
        both = duels(results.ok, PACKED, beside)
        if both.empty:
            continue
        ratios = f"{times(geometric(both['over']))} the time of {whose}, {times(both['over'].min())} to"
        yield (
            f"`{PACKED}`, a layer on input that is packed beforehand, takes {ratios} {times(both['over'].max())}, in "
            f"{number(len(both), 'group')}."
        )


def first_calls(results: Results) -> Iterator[Block]:
    """What a user waits for once: first calls, and compilation where it was measured apart."""
    if results.ok.empty:
        return
    yield Heading("First calls and compilation")
    compiled = results.ok["compile_seconds"].notna().any()
    apart = (
        " Apart from that, what all calls before the first sample took beyond as many calls of the median: compiling "
        "and loading, at whichever of these calls they come."
    )
    yield f"Seconds of the first call at a shape, compiling and loading included.{apart if compiled else ''}"
    lines = []
    for name, some in results.ok.groupby("contender", sort=False):
        first, compile = some["first_call_seconds"], some["compile_seconds"]
        line = {"contender": str(name), "shapes": str(len(some))}
        line |= {"first call, median": digits(first.median()), "longest": digits(first.max())}
        if compiled:
            line |= {"compiling, median": digits(compile.median()), "longest compiling": digits(compile.max())}
        lines.append(line)
    yield Table(pd.DataFrame(lines))


def host(results: Results) -> Iterator[Block]:
    """On a GPU: time on the host's clock and under a CUDA graph beside the time between events."""
    apart = results.ok[results.ok[["wall_p50", "graph_p50"]].notna().any(axis=1)]
    if results.on_cpu or apart.empty:
        return
    yield Heading("What the host costs")
    yield (
        "Geometric means over the contender's groups. *Wall* is the time on the host's clock over the time between two "
        "events on the device; *graph* is the time between events over the time under a CUDA graph, that is what a "
        "graph would gain: well above 1, the host can't start kernels as fast as the device runs them."
    )
    lines = []
    for (name, mode), some in apart.groupby(["contender", "mode"], sort=False):
        graph = some["p50"] / some["graph_p50"]
        lines.append(
            {
                "contender": name,
                "mode": mode,
                "groups": str(len(some)),
                "wall": digits(geometric(some["wall_p50"] / some["p50"])),
                "graph": digits(geometric(graph)),
                "most from a graph": digits(graph.max()),
                "under a graph": str(graph.notna().sum()),
            }
        )
    yield Table(pd.DataFrame(lines))


def memory(results: Results) -> Iterator[Block]:
    """Peak memory by contender and mode, over that of torch.nn or the baseline."""
    known = results.ok[results.ok["peak_memory_bytes"] > 0]
    if known.empty:
        return
    yield Heading("Memory")
    base = known[known["contender"] == known["baseline"]].set_index("group")["peak_memory_bytes"]
    yield (
        "What a call holds at most beyond weights and input: the largest over the shapes, and the geometric mean over "
        "that of the group's eager baseline."
    )
    lines = []
    for (name, mode), some in known.groupby(["contender", "mode"], sort=False):
        over = some["peak_memory_bytes"] / some["group"].map(base)
        lines.append(
            {
                "contender": name,
                "mode": mode,
                "largest, MB": digits(some["peak_memory_bytes"].max() / 1e6),
                "over eager": times(geometric(over)),
            }
        )
    yield Table(pd.DataFrame(lines))

"""Panels -> one SVG, by matplotlib, which is imported when something is drawn.

The same panels give the same bytes: there is no date in them, marks have fixed names, and nobody's settings count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from ...storage.results import AUTO
from .figures import times

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind readers, each with a marker of its own.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
# Inches of a panel, and right of all panels for the bar of colours.
_WIDTH, _HEIGHT, _RIGHT = 4.6, 2.9, 0.8
# Entries of the legend in a row.
_ACROSS = 4
# A speed-up's colour saturates at two to this power.
_RANGE = 3
_NUMBER = re.compile(rb"-?\d+\.\d{3,}")
_MARKERS = "osD^vPX*"
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "lines.markersize": 4,
}


class Panel(NamedTuple):
    """What one pair of axes shows.

    Attributes:
        title: cell, mode and dtype, and what is held fixed.
        draw: onto axes; what it returns, if anything, has colours that a bar explains.
    """

    title: str
    draw: Callable[[Axes], Any]


def drawn_by() -> bytes:
    """The mark of a file that this matplotlib drew; another one may place a letter elsewhere."""
    from matplotlib import __version__

    return f"Matplotlib v{__version__},".encode()


def draw(panels: list[Panel], salt: str, lines: int) -> bytes:
    """The panels as a file; a legend of up to so many lines goes below them, or a bar of colours beside them.

    Args:
        salt: what the names of its marks follow from.
    """
    from matplotlib import style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with style.context(["default", {**_RC, "svg.hashsalt": salt}]):
        across = min(2, len(panels))
        down = -(-len(panels) // across)
        # Places are computed here: matplotlib's own layout would take as long as all else together.
        width, height = across * _WIDTH + (0 if lines else _RIGHT), down * _HEIGHT + 0.2 * -(-lines // _ACROSS)
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        for k, panel in enumerate(panels):
            left, top = k % across * _WIDTH + 0.7, height - k // across * _HEIGHT - 0.35
            size = _WIDTH - 0.9, _HEIGHT - 0.95
            axes = figure.add_axes((left / width, (top - size[1]) / height, size[0] / width, size[1] / height))
            colours = panel.draw(axes)
            axes.set_title(panel.title)
        if colours is not None:
            bar = figure.add_axes(((width - 0.75) / width, 1 - 2.1 / height, 0.12 / width, 1.7 / height))
            _colour_bar(figure, colours, bar)
        _legend(figure)
        file = BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _NUMBER.sub(_shorter, file.getvalue())


def _shorter(found: re.Match[bytes]) -> bytes:
    """Half the bytes, and no trace of a processor's last digits."""
    value = float(found[0])
    return b"%.2f" % value if abs(value) >= 1 else b"%.3g" % value


def _colour_bar(figure: Figure, colours: Any, axes: Axes) -> None:
    ticks = range(-_RANGE, _RANGE + 1)
    labels = [f"{2**k}x" if k >= 0 else f"1/{2**-k}x" for k in ticks]
    figure.colorbar(colours, cax=axes, ticks=ticks).ax.set_yticklabels(labels)
    axes.set_title("faster")
    axes.set_xlabel("slower")


def _legend(figure: Figure) -> None:
    """One for all panels, of what any of them holds."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles, loc="lower center", ncols=_ACROSS, handlelength=3)


def heat(table: pd.DataFrame, axes: Axes) -> Any:
    """Draw speed-ups, given as logarithms to base 2, by H (lines) and B (columns)."""
    axes.grid(False)
    image = axes.imshow(table, cmap="PuOr", vmin=-_RANGE, vmax=_RANGE, aspect="auto", origin="lower")
    axes.patch.set(facecolor="white", edgecolor="#cccccc", hatch="////")  # where nothing was measured
    axes.set_xticks(range(table.shape[1]), [str(B) for B in table.columns])
    axes.set_yticks(range(table.shape[0]), [str(H) for H in table.index])
    axes.set_xlabel("batch B")
    axes.set_ylabel("hidden size H")
    for (y, x), value in np.ndenumerate(table.to_numpy()):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * _RANGE else "black"
            axes.text(x, y, times(2.0**value)[:-1], ha="center", va="center", fontsize=8, color=colour)
    return image


def line(rows: pd.DataFrame, over: str, what: str, labels: tuple[str, str], looks: dict, axes: Axes) -> None:
    """Draw a line for each contender over a size, and the limit where it was measured.

    Args:
        over: H or B.
        what: us_per_step or tokens_per_second.
        labels: of the two axes, with units.
        looks: by contender, what styles gave.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

    for name, some in rows.groupby("contender", sort=False):
        axes.plot(some[over], some[what], label=name, **looks[str(name)])
    least = rows.groupby(over)["floor_seconds"].median().dropna()
    if len(least) > 1:
        sizes = rows.groupby(over)[["B", "T"]].first().loc[least.index]
        limit = least * 1e6 / sizes["T"] if what == "us_per_step" else sizes["B"] * sizes["T"] / least
        axes.plot(least.index, limit, label="limit", color="#000000", linestyle=(0, (4, 3)), linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = _apart(sorted(rows[over].unique()))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,)))
    axes.yaxis.set_major_formatter(EngFormatter(sep="") if what == "tokens_per_second" else StrMethodFormatter("{x:g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])


def _apart(sizes: list[int]) -> list[int]:
    """Sizes without those so near to the one before that their names would meet, as 1000 and 1024."""
    least = (sizes[-1] / sizes[0]) ** (1 / 12)
    kept = sizes[:1]
    for size in sizes[1:]:
        if size >= least * kept[-1]:
            kept.append(size)
    return kept


def styles(contenders: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How each contender's line looks; auto is a broad band behind the driver that it took."""
    band = {"color": "#cccccc", "linewidth": 6, "zorder": 1.5, "solid_capstyle": "round"}
    looks: dict[str, dict[str, Any]] = {AUTO: band}
    for k, name in enumerate(name for name in contenders if name != AUTO):
        looks[name] = {
            "color": _COLOURS[k % len(_COLOURS)],
            "marker": _MARKERS[k % len(_MARKERS)],
            "linestyle": ("-", "--", ":")[k // len(_COLOURS) % 3],
            "linewidth": 1.2,
        }
    return looks

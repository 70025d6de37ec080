"""Rows of variants -> markdown: what compiling showed, and what measuring showed.

Imports neither torch nor gatefuse; every figure is computed from a CSV.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from ..report.document.blocks import Block, Heading, Items, Table
from ..report.document.figures import digits, number
from ..report.document.markdown import document
from ..resources import report
from ..storage import tuning_log
from ..storage.csv_lines import in_words, read_lines, to_numbers
from ..storage.whole_file import write_whole

COMPILED = "variants_"  # begins the name of a file of compiled variants, which ends in the architecture
# Figures of the unchanged pass that stand beside the variant's.
BESIDE = (
    "batch_tile",
    "programs",
    "warps",
    "registers",
    "stack_bytes",
    "shared_bytes",
    "step_barriers",
    "step_instructions",
)
_NUMBERS = ("H", "B", *BESIDE, *(f"default_{name}" for name in BESIDE))
_PLACE = ["cell", "H", "B", "dtype", "way"]


def is_compiled(csv: Path) -> bool:
    """Whether the file is one of compiled variants, by its name."""
    return csv.name.startswith(COMPILED)


def read_compiled(path: Path) -> pd.DataFrame:
    """The rows of compiled variants, figures as whole numbers; ``attrs["skipped"]`` names lines that can't be used.

    Raises:
        OSError: it can't be read.
        ValueError: it is empty, lacks columns, or holds rows of several architectures, or none.
    """
    frame, skipped = read_lines(path, ("variant", "change", "refused", *_PLACE, *_NUMBERS, "arch", *report.STAMP))
    frame = to_numbers(frame, skipped, counts=_NUMBERS).reset_index(drop=True)
    if len(archs := frame["arch"].unique()) != 1:
        raise ValueError(f"{path} must hold rows of one architecture. Got {', '.join(sorted(archs)) or 'none'}.")
    frame.attrs["skipped"] = in_words(skipped)
    return frame


def write_compiled(csv: Path) -> Path:
    """Write the page of compiled variants beside its CSV; see read_compiled for errors."""
    path = csv.with_suffix(".md")
    write_whole(path, document(_compiled(read_compiled(csv))))
    return path


def _compiled(rows: pd.DataFrame) -> Iterator[Block]:
    arch, refused = rows.iloc[0]["arch"], rows[rows["refused"] != ""]
    yield (
        f"**Compiled for {arch} ahead of time; nothing here has run.** What each variant takes of a multiprocessor, "
        f"beside the unchanged pass (before the arrow). Of {number(len(rows), 'trial')} {len(refused)} may not be run. "
        "The page of the unchanged kernels says what the figures are, [tuning](../../docs/tuning.md) what is tried."
    )
    yield Table(
        pd.DataFrame(
            {
                "variant": rows["variant"],
                "change": rows["change"],
                **_places(rows),
                "batch tile": _beside(rows, "batch_tile"),
                "programs": _beside(rows, "programs"),
                "warps": _beside(rows, "warps"),
                "registers": _beside(rows, "registers"),
                "stack": _beside(rows, "stack_bytes"),
                "shared": _beside(rows, "shared_bytes"),
                "a step: block barriers": _beside(rows, "step_barriers"),
                "instructions": _beside(rows, "step_instructions"),
                "may run": ["yes" if not why else "**no**" for why in rows["refused"]],
            }
        )
    )
    if len(refused):
        yield Heading("Refused")
        yield Items(tuple(f"{row['variant']}, {title(row)}: {row['refused']}" for row in refused.to_dict("records")))
    yield from _skipped(rows)
    yield Heading("Compiled with")
    last = rows.iloc[-1]
    yield Items(tuple(f"{name}: {last[name]}" for name in report.STAMP))


def _places(rows: pd.DataFrame) -> dict[str, pd.Series]:
    return {name: rows[name] for name in _PLACE}


def title(row: dict) -> str:
    """A trial's title: ``lstm H512 B64 bfloat16 backward``."""
    return f"{row['cell']} H{row['H']} B{row['B']} {row['dtype']} {row['way']}"


def _beside(rows: pd.DataFrame, name: str) -> list[str]:
    return [arrow(a, b) for a, b in zip(rows[f"default_{name}"], rows[name], strict=True)]


def arrow(before: int, after: int) -> str:
    """A change: ``22 → 4``, or one number where they are the same."""
    return f"{after:,}" if before == after else f"{before:,} → {after:,}"


def write_measured(csv: Path) -> Path:
    """Write the page of a device's measured variants beside its CSV; see tuning_log.read for errors."""
    path = csv.with_suffix(".md")
    write_whole(path, document(_measured(tuning_log.read(csv))))
    return path


def _measured(rows: pd.DataFrame) -> Iterator[Block]:
    last = rows.iloc[-1]
    found = tuning_log.latest(rows)
    yield (
        f"**Variants on {last['gpu'] or last['device']}**: a change of one loop's pass beside the unchanged pass, "
        "sampled in turns. The ratio is time over the unchanged pass's, in brackets from the 20 % quantile over the "
        "other's 80 % to the reverse; faster and slower say that the interval leaves 1 out. "
        "[Tuning](../../docs/tuning.md) says what was kept."
    )
    yield Table(
        pd.DataFrame(
            {
                "variant": found["variant"],
                "change": found["change"],
                **_places(found),
                "expected": [digits(value) for value in found["expected"]],
                "measured": [ratio(row) for row in found.to_dict("records")],
                "": [verdict(row) for row in found.to_dict("records")],
                "us a step": [f"{digits(r['default_us'])} → {digits(r['us'])}" for r in found.to_dict("records")],
                "same bits": found["same_bits"],
                "error of allowed": [_error(row) for row in found.to_dict("records")],
                "commit": [_commit(row) for row in found.to_dict("records")],
            }
        )
    )
    odd = [row for row in found.to_dict("records") if row["note"]]
    if odd:
        yield Heading("Not measured")
        yield Items(tuple(f"{row['variant']}, {title(row)}: {row['status']}: {row['note']}" for row in odd))
    yield from _skipped(rows)
    yield Heading("Measured with")
    yield Items(
        tuple(f"{name}: {last[name]}" for name in ("gpu", "gpu_driver", "gpu_clocks", "torch", "triton", "date"))
    )


def _skipped(rows: pd.DataFrame) -> Iterator[Block]:
    if rows.attrs["skipped"]:
        yield Heading("Skipped")
        yield Items(tuple(rows.attrs["skipped"]))


def _commit(row: dict) -> str:
    return row["commit"][:10] + ("" if row["tree"] == "clean" else f" ({row['tree']})")


def _error(row: dict) -> str:
    return "-" if np.isnan(row["error"]) else f"{digits(row['error'])} of {digits(row['allowed'])}"


def ratio(row: dict) -> str:
    """The ratio with its interval: ``0.71 (0.69 to 0.73)``, or what came instead of a figure."""
    if np.isnan(row["ratio"]):
        return row["status"]
    return f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"


def verdict(row: dict) -> str:
    """The verdict: faster or slower where the interval leaves 1 out, else nothing."""
    return "faster" if row["ratio_high"] < 1 else "slower" if row["ratio_low"] > 1 else ""


def short(rows: pd.DataFrame) -> str:
    """A few words a trial, for a terminal: what was expected and what came."""
    lines = [
        f"{row['variant']:34}{title(row):46}{row['expected']:6.2f}  {ratio(row):22}{verdict(row)}"
        for row in rows.to_dict("records")
    ]
    return "\n".join([f"{'variant':34}{'':46}{'said':>6}  measured", *lines])

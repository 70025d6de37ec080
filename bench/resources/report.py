"""Rows of resources/compilation.py -> markdown. Without torch and gatefuse; every figure is computed from the CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ..report.document.markdown import markdown
from ..storage.csv_lines import in_words, read_lines, to_numbers
from ..storage.whole_file import write_whole

STAMP = ("torch", "triton", "gatefuse", "commit", "tree", "date")
_FIGURES = (
    "H", "batch_tile", "programs", "warps", "registers", "stack_bytes", "shared_bytes", "shared_limit", "weights_bytes",
    "weight_copies", "step_matrix", "step_barriers", "step_spills", "step_instructions",
)  # fmt: skip
_FLAGS = ("fits", "resident")


_TEXTS = ("loop", "cell", "way", "dtype", "kernel", "error", "weights_in", "matrix", "arch")


def read(path: Path) -> pd.DataFrame:
    """The rows of a file: figures are numbers, flags are true or false, all else is text as it stands.

    A line that is cut off, or has text for a number, is left out, and ``attrs["skipped"]`` says so for each.

    Raises:
        OSError: it can't be read.
        ValueError: it is empty, lacks columns, or holds rows of several architectures, or none.
    """
    frame, skipped = read_lines(path, (*_TEXTS, *_FIGURES, *_FLAGS, *STAMP))
    frame = to_numbers(frame, skipped, counts=_FIGURES).reset_index(drop=True)
    if frame.empty:
        raise ValueError(f"{path} must hold at least one row. Got none.")
    if len(archs := frame["arch"].unique()) > 1:
        raise ValueError(f"{path} must hold rows of one architecture. Got {', '.join(sorted(archs))}.")
    frame = frame.assign(**{name: frame[name] == "True" for name in _FLAGS})
    frame.attrs["skipped"] = in_words(skipped)
    return frame


def write(csv: Path) -> Path:
    """Write the page of a CSV beside it, as .md.

    Raises:
        OSError: a file can't be read or written.
        ValueError: the file has no rows that can be used; see read.
    """
    path = csv.with_suffix(".md")
    write_whole(path, render(read(csv)))
    return path


def render(rows: pd.DataFrame) -> str:
    """The page: the answer first, then what to know for reading, the tables, failures, and what compiled it."""
    ok = rows[rows["error"] == ""]
    parts = [*_answer(rows, ok), *_reading(), *_tables(ok), *_failures(rows), *_stamp(rows)]
    return "\n\n".join(parts) + "\n"


def _answer(rows: pd.DataFrame, ok: pd.DataFrame) -> Iterator[str]:
    arch, limit = rows.iloc[0]["arch"], rows.iloc[0]["shared_limit"]
    yield (
        f"**Compiled for {arch} ahead of time; nothing here has run.** {len(rows)} kernels of gatefuse's loops that "
        "run a whole sequence at once: what each takes of a multiprocessor, not how fast it is."
    )
    yield "## What fits"
    if ok.empty:
        yield "Nothing compiled."
        return
    spilled = ok[ok["stack_bytes"] > 0]
    yield (
        f"Of {len(ok)} kernels that compiled, {ok['fits'].sum()} fit into the {limit:,} bytes of shared memory that a "
        f"program may have, {ok['resident'].sum()} keep all recurrent weights in shared memory over all steps, "
        f"{(ok['weight_copies'] > 0).sum()} move them within it in each step, and {len(spilled)} put something on the "
        f"stack, {(spilled['step_spills'] > 0).sum()} of these within the time loop."
    )
    lines = []
    for (loop, cell, dtype), some in ok.groupby(["loop", "cell", "dtype"], sort=False):
        line = {"loop": loop, "cell": cell, "dtype": dtype}
        for way, group in some.groupby("way", sort=False):
            fitting, kept = group[group["fits"]], group[group["fits"] & group["resident"]]
            line[f"{way}: H that fits"] = _sizes(fitting)
            line[f"{way}: of these resident"] = "all" if len(kept) == len(fitting) and len(kept) else _sizes(kept)
        lines.append(line)
    yield markdown(pd.DataFrame(lines).fillna(""))


def _sizes(rows: pd.DataFrame) -> str:
    return ", ".join(str(h) for h in sorted(set(rows["H"]))) or "none"


def _reading() -> Iterator[str]:
    yield "## How to read the tables"
    yield (
        "A row is a kernel; programs share a batch tile of so many samples. Registers and stack bytes are a "
        "thread's; what doesn't fit into registers goes on the stack. Shared bytes are a program's; **no** marks a "
        "kernel that the architecture can't start: the step loop runs in its place. Weights: where the time loop's "
        "products find them, and a program's bytes of them, with gates and units padded to powers of two; *resident* "
        "means that the programs of a batch tile hold all of them in shared memory over all steps. Copies: moves of "
        "weights through shared memory in each step. Matrix: the matrix unit's instructions in PTX, by form."
    )
    yield (
        "The last four columns count instructions of one step in machine code: the matrix unit's, without those whose "
        "result nothing uses; block barriers, at which all warps of a program wait for one another; spills, the stores "
        "to the stack and loads from it; and all of them."
    )


def _tables(ok: pd.DataFrame) -> Iterator[str]:
    for (loop, cell), some in ok.groupby(["loop", "cell"], sort=False):
        yield f"## {loop}, {cell}"
        yield markdown(
            pd.DataFrame(
                {
                    "pass": some["way"],
                    "dtype": some["dtype"],
                    "H": some["H"],
                    "batch tile": some["batch_tile"],
                    "programs": some["programs"],
                    "warps": some["warps"],
                    "registers": some["registers"],
                    "stack": some["stack_bytes"],
                    "shared": [f"{v:,}" for v in some["shared_bytes"]],
                    "fits": ["yes" if v else "**no**" for v in some["fits"]],
                    "weights": [_weights(row) for _, row in some.iterrows()],
                    "copies": some["weight_copies"],
                    "matrix": some["matrix"],
                    "a step: matrix": some["step_matrix"],
                    "barriers": some["step_barriers"],
                    "spills": some["step_spills"],
                    "instructions": some["step_instructions"],
                }
            )
        )


def _weights(row: pd.Series) -> str:
    where = "resident" if row["resident"] else f"**{row['weights_in']}**"
    return f"{where}, {row['weights_bytes']:,}"


def _failures(rows: pd.DataFrame) -> Iterator[str]:
    if skipped := rows.attrs.get("skipped"):
        yield "## Skipped"
        yield "Lines of the file that can't be used, and count nowhere:"
        yield "\n".join(f"- {line}" for line in skipped)
    failed = rows[rows["error"] != ""]
    if len(failed):
        yield "## Failures"
        yield markdown(failed[["loop", "cell", "way", "dtype", "H", "batch_tile", "error"]])


def _stamp(rows: pd.DataFrame) -> Iterator[str]:
    yield "## Compiled with"
    for _, run in rows.drop_duplicates(list(STAMP)).iterrows():
        yield "\n".join(f"- {name}: {run[name]}" for name in STAMP)

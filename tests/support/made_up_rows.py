"""Rows as a sweep on a made-up GPU would leave them, for tests of what reads rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

STAMP = {
    "device": "some-gpu", "kind": "cuda", "cpu": "Some CPU", "cores": 16, "threads": 16, "load": 0.1, "gpu": "Some GPU",
    "gpu_driver": "1", "gpu_clocks": "sm 1980 of 1980 MHz", "tf32": "matmul highest, cudnn True", "torch": "2.13.0",
    "triton": "3.7.1", "cuda": "13.0", "cudnn": "9", "python": "3.11", "system": "Linux x86_64", "gatefuse": "0.1.0",
    "commit": "c0ffee", "tree": "clean", "date": "2026-11-21 11:39 UTC",
}  # fmt: skip
MATRIX, COPY, BARRIER = 400e12, 3e12, 2e-6

# By contender: gatefuse's driver, and microseconds of a step at H 0 and for each unit.
CONTENDERS: Mapping[str, tuple[str, float, float]] = {
    "scratch 2 products": ("", 90.0, 0.02),
    "gatefuse eager": ("eager", 100.0, 0.02),
    "gatefuse step": ("step", 12.0, 0.02),
    "gatefuse block": ("block", 1.0, 0.06),
    "gatefuse grid": ("grid", 5.0, 0.01),
    "gatefuse vendor": ("vendor", 3.0, 0.03),
    "gatefuse auto": ("vendor", 3.0, 0.03),
    "torch.nn": ("", 3.0, 0.03),
}


def make_rows(
    H: Sequence[int] = (64, 256, 1024),
    B: Sequence[int] = (1, 32),
    T: Sequence[int] = (100,),
    cells: Sequence[str] = ("lstm",),
    dtypes: Sequence[str] = ("bfloat16",),
    modes: Sequence[str] = ("forward", "training"),
    fill: Sequence[float] = (1.0,),
    contenders: Mapping[str, tuple[str, float, float]] = CONTENDERS,
    **changes: Any,
) -> pd.DataFrame:
    """One row for each contender at each point, in the columns of a CSV.

    Args:
        changes: columns that all rows get instead of theirs.
    """
    rows = [
        _row(name, *contender, *point)
        for point in product(cells, dtypes, modes, fill, H, B, T)
        for name, contender in contenders.items()
    ]
    return pd.DataFrame(rows).assign(**{**STAMP, **changes})


def _row(
    contender: str, driver: str, start: float, unit: float,
    cell: str, dtype: str, mode: str, fill: float, H: int, B: int, T: int,
) -> dict[str, Any]:  # fmt: skip
    seconds = 1e-6 * T * fill * (2.5 if mode == "training" else 1.0)
    p50, base = (start + unit * H) * seconds, (90.0 + 0.02 * H) * seconds
    floor = BARRIER * T
    return {
        "cell": cell, "contender": contender, "mode": mode, "dtype": dtype, "I": H, "H": H, "B": B, "T": T, "layers": 1,
        "bidirectional": False, "shape_name": "", "fill": fill, "heads": 1, "status": "ok", "note": "",
        "driver": driver, "samples": 20, "p20": 0.99 * p50, "p50": p50, "p80": 1.01 * p50, "wall_p50": 1.05 * p50,
        "graph_p50": 0.9 * p50,
        "us_per_step": p50 * 1e6 / T, "tokens_per_second": B * T * fill / p50, "baseline": "scratch 2 products",
        "speedup": base / p50, "peak_memory_bytes": 4.0 * B * T * H, "error": 1e-3, "first_call_seconds": 0.5,
        "compile_seconds": 0.4, "flop": 1e9, "bytes": 1e6, "matrix_rate": MATRIX, "copy_rate": COPY,
        "barrier_seconds": BARRIER, "floor_seconds": floor, "floor_share": floor / p50, "floor_by": "barrier",
    }  # fmt: skip


def write(rows: pd.DataFrame, path: Path) -> Path:
    """As a sweep writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, index=False, float_format="%.6g")
    return path

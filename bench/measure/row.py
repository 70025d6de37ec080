"""A row: what one contender did in one group. stamp.py says where, storage/sweep_table.py writes both."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from gatefuse.bench.measure.peaks import UNKNOWN, Floor
from gatefuse.bench.measure.sampling import Samples
from gatefuse.bench.suite.sweeps import Group

NAN = float("nan")


@dataclass
class Row:
    """One contender in one group.

    Attributes:
        status: ``ok``; ``failed``, then note holds the error; ``left out``, then note says why it can't run that.
        driver: the gatefuse driver that ran, of the contenders that are gatefuse's.
        samples: how many were taken.
        p20, p50, p80: quantiles of the samples, seconds a call; on a GPU the device's time, with a flushed L2 cache.
        wall_p50: median of the host's clock from the call until the device is done, the caches as they are.
        graph_p50: median of the device's time for the same call replayed from a CUDA graph; NaN where it is long, can't
            be captured, or there is no GPU.
        baseline: the contender that the speed-up is over.
        speedup: the baseline's p50 over this one's.
        error: against float64, the largest difference over the largest value: of the output (forward), of the gradient
            of the input (training).
        peak_memory_bytes: what a call holds at most beyond weights and input; NaN on a CPU.
        first_call_seconds: the first call in this process at this shape, compilation included.
        compile_seconds: what the calls before the first sample took beyond as many calls of p50: compiling, loading,
            and what else is done once. See Samples.
        others: cores that other programs took while the group was measured; NaN where that isn't known.
        floor: the least time that a call could take, and what it follows from.
    """

    group: Group
    contender: str
    status: str = "ok"
    note: str = ""
    driver: str = ""
    samples: int = 0
    p20: float = NAN
    p50: float = NAN
    p80: float = NAN
    wall_p50: float = NAN
    graph_p50: float = NAN
    baseline: str = ""
    speedup: float = NAN
    error: float = NAN
    peak_memory_bytes: float = NAN
    first_call_seconds: float = NAN
    compile_seconds: float = NAN
    others: float = NAN
    floor: Floor = UNKNOWN

    @property
    def us_per_step(self) -> float:
        """p50 in microseconds over T."""
        return self.p50 * 1e6 / self.group.shape.T

    @property
    def tokens_per_second(self) -> float:
        """Steps of all samples over p50."""
        return self.group.shape.B * self.group.shape.T * self.group.shape.fill / self.p50

    @property
    def floor_share(self) -> float:
        """The least time over p50."""
        return self.floor.floor_seconds / self.p50

    def take(self, samples: Samples) -> None:
        """Take over what was measured."""
        self.first_call_seconds = samples.first_call
        if samples.failure:
            self.status, self.note = "failed", samples.failure
            return
        self.samples = len(samples.seconds)
        self.p20, self.p50, self.p80 = pd.Series(samples.seconds).quantile([0.2, 0.5, 0.8])
        self.wall_p50, self.graph_p50 = _median(samples.wall), _median(samples.graph)
        self.compile_seconds = samples.compiling
        self.others = samples.others
        self.peak_memory_bytes = samples.peak_memory

    def columns(self) -> dict[str, Any]:
        """The row by a file's columns."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("group", "floor")}
        derived = {name: getattr(self, name) for name in ("us_per_step", "tokens_per_second", "floor_share")}
        return {**self.group.columns, **own, **derived, **self.floor._asdict()}


def _median(seconds: list[float]) -> float:
    return float(pd.Series(seconds).median()) if seconds else NAN


def compare(rows: list[Row], baseline: str) -> None:
    """Fill in the speed-up of a group's rows over the baseline's; it stays NaN where the baseline has no figure."""
    base = next((row.p50 for row in rows if row.contender == baseline), NAN)
    for row in rows:
        row.baseline, row.speedup = baseline, base / row.p50

"""Samples that were taken in turns, given to pytest-benchmark one test at a time.

pytest-benchmark's fixture measures one function to the end before the next test begins. So that its table, JSON and
comparisons hold the samples of the race, each test's timer replays what was measured for its contender.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Replay:
    """A timer: of each pair of readings, the second is later than the first by one sample."""

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def __call__(self) -> float:
        return next(self._readings)

    def __repr__(self) -> str:
        return "gatefuse.bench.plugin.replay"

    def give(self, benchmark: Any, seconds: list[float]) -> None:
        """Run pytest-benchmark's fixture, whose timer this is, over the samples.

        Raises:
            ValueError: there are no samples.
        """
        if not seconds:
            raise ValueError("seconds must hold at least one sample. Got none.")
        # Zero and the sample, rather than a running clock: their difference is the sample to the last bit.
        self._readings = (reading for sample in seconds for reading in (0.0, sample))
        benchmark.pedantic(_nothing, rounds=len(seconds), iterations=1)


def _nothing() -> None:
    pass

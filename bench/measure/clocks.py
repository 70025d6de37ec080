"""How a device's calls are timed: the device's own time, the host's, and that of a replayed graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import Protocol

import torch

from gatefuse.kernels.runtime.graphs.capture import allowed, capture

Call = Callable[[], object]

# A sample shorter than this is repeated within: the clock and the call around it cost about a microsecond.
SHORTEST_CPU_SAMPLE = 1e-3


class Clock(Protocol):
    """How a device's calls are timed."""

    def first(self, call: Call) -> tuple[float, object]:
        """Seconds of a call on the host's clock, until the device is done, and what it returned."""

    def sample(self, call: Call, repeats: int) -> float:
        """The device's seconds per call, over that many calls."""

    def wall(self, call: Call) -> float | None:
        """The host's seconds from the call until the device is done, or None where they are what sample gives."""

    def repeats(self, seconds: float) -> int:
        """How many calls of so many seconds a sample should hold."""

    def graphed(self, call: Call) -> Call | None:
        """The same work as a replay of one graph of launches, or None where there is no such thing."""

    def peak_memory(self, call: Call) -> float:
        """Bytes that the device's allocator holds at most beyond what lay there before; NaN where it keeps no count."""


class CpuClock:
    """Wall time of a call that returns when it is done."""

    def first(self, call: Call) -> tuple[float, object]:
        start = time.perf_counter()
        result = call()
        return time.perf_counter() - start, result

    def sample(self, call: Call, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    def wall(self, call: Call) -> float | None:
        return None

    def repeats(self, seconds: float) -> int:
        return max(1, min(10_000, ceil(SHORTEST_CPU_SAMPLE / max(seconds, 1e-9))))

    def graphed(self, call: Call) -> Call | None:
        return None

    def peak_memory(self, call: Call) -> float:
        return float("nan")


class GpuClock:
    """Time between two events on the current stream, the L2 cache flushed before each sample.

    The flush is queued ahead of the call and hides the host's delay for its first kernels; a call that the host can't
    feed fast enough is measured at the host's pace, as its user meets it. Its replay from a graph is not.
    """

    def __init__(self) -> None:
        l2 = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "L2_cache_size", 0)
        self._flush = torch.empty(max(2 * l2, 64 << 20), dtype=torch.int8, device="cuda")

    def first(self, call: Call) -> tuple[float, object]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        return time.perf_counter() - start, result

    def sample(self, call: Call, repeats: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        self._flush.zero_()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / repeats

    def wall(self, call: Call) -> float | None:
        return self.first(call)[0]

    def repeats(self, seconds: float) -> int:
        # A second call would find its weights in the cache.
        return 1

    def graphed(self, call: Call) -> Call | None:
        """None where the call can't be captured, say since it waits for the device."""
        if not allowed(self._flush.device):
            return None
        try:
            # Of all threads, as a backward runs in another: what can't be captured there must be seen too.
            start, kept = capture(call, "global")
            start()
            torch.cuda.synchronize()
        except Exception:
            return None

        def replay() -> object:
            start()
            return kept

        return replay

    def peak_memory(self, call: Call) -> float:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)


def make_clock(device: torch.device) -> Clock:
    """The clock of a device."""
    return GpuClock() if device.type == "cuda" else CpuClock()

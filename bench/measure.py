"""Timing and memory. Contenders are sampled in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, inf
from random import Random
from typing import Protocol

import torch

Call = Callable[[], object]

# A sample shorter than this is repeated within: the clock and the call around it cost about a microsecond.
SHORTEST_CPU_SAMPLE = 1e-3
# A call shorter than this runs once unmeasured before each sample: what the contender before it left in the caches and
# in the thread pool would count for more than a few per cent.
SHORT_CALL = 1e-2
# A round longer than this is slow enough that three of them must do.
SLOW_ROUND = 2.0


@dataclass
class Samples:
    """What measuring one contender gave.

    Attributes:
        seconds: one a round, each per call.
        first_call: seconds of the very first call, compilation included.
        peak_memory: bytes the device's allocator held at most beyond what lay there before the call; NaN on a CPU,
            where torch keeps no such count.
        failure: what was raised, "" if nothing was; the seconds are then incomplete.
    """

    seconds: list[float] = field(default_factory=list)
    first_call: float = float("nan")
    peak_memory: float = float("nan")
    failure: str = ""


class Clock(Protocol):
    """How a device's calls are timed."""

    def first(self, call: Call) -> tuple[float, object]:
        """Seconds of a call on the host's clock, until the device is done, and what it returned."""

    def sample(self, call: Call, repeats: int) -> float:
        """Seconds per call, over that many calls."""

    def repeats(self, seconds: float) -> int:
        """How many calls of so many seconds a sample should hold."""

    def peak_memory(self, call: Call) -> float:
        """Bytes, as Samples has them."""


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

    def repeats(self, seconds: float) -> int:
        return max(1, min(10_000, ceil(SHORTEST_CPU_SAMPLE / max(seconds, 1e-9))))

    def peak_memory(self, call: Call) -> float:
        return float("nan")


class GpuClock:
    """Time between two events on the current stream, the L2 cache flushed before each sample.

    The flush is queued ahead of the call and hides the host's delay for its first kernels; a call that the host can't
    feed fast enough is measured at the host's pace, as its user meets it.
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

    def repeats(self, seconds: float) -> int:
        # A second call would find its weights in the cache.
        return 1

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


def measure(
    calls: Mapping[str, Call],
    clock: Clock,
    budget: float,
    check: Callable[[str, object], None] = lambda name, result: None,
    *,
    rounds: int = 20,
    least: int = 5,
    warmup: int = 3,
) -> dict[str, Samples]:
    """Samples of all contenders, taken in turns: each round takes one of each, in an order of its own.

    Args:
        calls: by contender, what is timed.
        budget: seconds all rounds together should take; no fewer than ``least`` rounds are taken for it, or three
            where a round takes over SLOW_ROUND seconds.
        check: given a contender and what its first call returned; what it raises ends the contender's part.
        rounds: no more than these.
        warmup: calls before the first sample, besides the very first call; a scripted loop compiles in the second.
    """
    found = {name: Samples() for name in calls}
    fastest: dict[str, float] = {}
    for name, call in calls.items():
        with _into(found[name]):
            found[name].first_call, result = clock.first(call)
            check(name, result)
            began = time.perf_counter()
            for _ in range(warmup):
                fastest[name] = min(clock.sample(call, 1), fastest.get(name, inf))
                if time.perf_counter() - began > budget:
                    break
            found[name].peak_memory = clock.peak_memory(call)
    least = 3 if sum(fastest.values()) > SLOW_ROUND else least
    repeats = {name: clock.repeats(seconds) for name, seconds in fastest.items()}
    shuffle = Random(0)
    with _no_collection():
        began = time.perf_counter()
        for k in range(rounds):
            if k >= least and time.perf_counter() - began > budget:
                break
            turn = [name for name in calls if not found[name].failure]
            # In a fixed order each would always follow the same other one.
            for name in shuffle.sample(turn, len(turn)):
                with _into(found[name]):
                    if fastest[name] < SHORT_CALL:
                        calls[name]()
                    found[name].seconds.append(clock.sample(calls[name], repeats[name]))
    return found


def describe(error: BaseException) -> str:
    """An exception in one line of at most 300 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


@contextmanager
def _into(samples: Samples) -> Iterator[None]:
    """What is raised inside becomes the contender's failure: the others go on."""
    try:
        yield
    except Exception as error:
        samples.failure = describe(error)


@contextmanager
def _no_collection() -> Iterator[None]:
    """The garbage collector may not run inside a sample."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

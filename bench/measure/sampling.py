"""Taking samples. Contenders are sampled in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from statistics import median

from gatefuse.bench.measure.broken_device import blame
from gatefuse.bench.measure.clocks import Call, Clock
from gatefuse.bench.measure.machine import Others

# A call shorter than this runs once unmeasured before each sample: what the contender before it left in the caches and
# in the thread pool would count for more than a few per cent.
SHORT_CALL = 1e-2
# A call shorter than this is replayed from a graph too: of its time, much is the host's.
GRAPH_CALL = 5e-3
# Rounds that together take longer than this, and than twice the budget, are so slow that three of them must do.
SLOW = 2.0
# Contenders within this of the fastest take rounds of their own until they have so many samples, or for twice the
# budget: which of them is the slower isn't told by three to five, whose intervals miss each other by chance.
CLOSE, ENOUGH = 1.25, 11


@dataclass
class Samples:
    """What measuring one contender gave.

    Attributes:
        seconds: one a round, each per call.
        first_call: seconds of the very first call, compilation included.
        peak_memory: bytes the device's allocator held at most beyond what lay there before the call; NaN on a CPU,
            where torch keeps no such count.
        wall: seconds of a call on the host's clock until the device is done, one a round.
        graph: seconds of a call replayed from a CUDA graph; empty where it was not captured.
        compiling: what the first call and those of the warm-up took beyond as many calls of the median, zero at least.
            It holds compiling and loading, at whichever of these calls they come, and what else is done once.
        others: cores that other programs took meanwhile; NaN where that isn't known.
        failure: what was raised, "" if nothing was; the seconds are then incomplete.
    """

    seconds: list[float] = field(default_factory=list)
    first_call: float = float("nan")
    peak_memory: float = float("nan")
    wall: list[float] = field(default_factory=list)
    graph: list[float] = field(default_factory=list)
    compiling: float = float("nan")
    others: float = float("nan")
    failure: str = ""


def measure(
    calls: Mapping[str, Call],
    clock: Clock,
    budget: float,
    check: Callable[[str, object], None] = lambda name, result: None,
    begins: Callable[[str], object] = lambda name: None,
    *,
    rounds: int = 20,
    least: int = 5,
    warmup: int = 3,
    graphs: bool = True,
) -> dict[str, Samples]:
    """Samples of all contenders, taken in turns: each round takes one of each, in an order of its own.

    Args:
        calls: by contender, what is timed.
        budget: seconds all rounds together should take; no fewer than ``least`` rounds are taken for it, or three
            where these are SLOW. Those CLOSE to the fastest may then take twice as long for more.
        check: given a contender and what its first call returned; what it raises ends the contender's part.
        begins: told a contender's name before it is run, each time.
        rounds: no more than these.
        warmup: calls before the first sample, besides the very first call, fewer of slow ones; a scripted loop compiles
            in the second.
        graphs: short calls are replayed from a graph too, where the device has such and the call can be captured.

    Raises:
        BrokenError: one of them broke the device. Nothing that was measured beside it counts.
    """
    found = {name: Samples() for name in calls}
    warm: dict[str, list[float]] = {}
    for name, call in calls.items():
        begins(name)
        warm[name] = list(_warm_up(name, call, found[name], clock, partial(check, name), warmup, budget))
    fastest = {name: min(seconds) for name, seconds in warm.items() if seconds}
    repeats = {name: clock.repeats(seconds) for name, seconds in fastest.items()}

    def sample(name: str) -> None:
        if fastest[name] < SHORT_CALL:
            calls[name]()
        seconds = clock.sample(calls[name], repeats[name])
        wall = clock.wall(calls[name])
        found[name].seconds.append(seconds)
        found[name].wall.append(seconds if wall is None else wall)

    replays: dict[str, Call] = {}

    def replay(name: str) -> None:
        try:
            replays[name]()
            found[name].graph.append(clock.sample(replays[name], 1))
        except Exception as error:  # the call itself was measured, and is no failure
            blame(name, error)
            del replays[name]
            found[name].graph.clear()

    with _no_collection():
        others = Others()
        _take_turns(found, sample, begins, calls, budget, rounds, least)
        close = _closest(found)
        more = min(rounds, ENOUGH) - max((len(found[name].seconds) for name in close), default=0)
        if len(close) > 1:
            _take_turns(found, sample, begins, close, 2 * budget, more, 0)
        taken = others.cores()
        for name, samples in found.items():
            samples.others = taken
            if samples.seconds and not samples.failure:
                steady = median(samples.seconds)
                samples.compiling = sum(max(0.0, s - steady) for s in (samples.first_call, *warm[name]))
                # Last, since a capture that fails may leave a library in a state of its own.
                begins(name)
                if graphs and steady < GRAPH_CALL:
                    if captured := clock.graphed(calls[name]):
                        replays[name] = captured
                    else:
                        blame(name)
        _take_turns(found, replay, begins, replays, budget / 4, rounds, least)
    return found


def describe(error: BaseException) -> str:
    """An exception in one line of at most 300 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


def _warm_up(
    name: str, call: Call, into: Samples, clock: Clock, check: Callable[[object], None], times: int, budget: float
) -> Iterator[float]:
    """Seconds of the calls after the first; nothing more after one that raises."""
    with _failing(name, into):
        into.first_call, result = clock.first(call)
        check(result)
        del result
        began = time.perf_counter()
        for _ in range(times):
            yield clock.sample(call, 1)
            if time.perf_counter() - began > budget / 10:
                break
        into.peak_memory = clock.peak_memory(call)


def _closest(found: Mapping[str, Samples]) -> list[str]:
    medians = {name: median(s.seconds) for name, s in found.items() if s.seconds and not s.failure}
    return [name for name, seconds in medians.items() if seconds <= CLOSE * min(medians.values())]


def _take_turns(
    found: Mapping[str, Samples],
    act: Callable[[str], None],
    begins: Callable[[str], object],
    names: Iterable[str],
    budget: float,
    most: int,
    least: int,
) -> None:
    shuffle = Random(0)
    began = time.perf_counter()
    for k in range(most):
        took = time.perf_counter() - began
        if took > budget and k >= (3 if took > max(SLOW, 2 * budget) else least):
            break
        turn = [name for name in names if not found[name].failure]
        # In a fixed order each would always follow the same other one.
        for name in shuffle.sample(turn, len(turn)):
            begins(name)
            with _failing(name, found[name]):
                act(name)


@contextmanager
def _failing(name: str, samples: Samples) -> Iterator[None]:
    """What is raised inside becomes the contender's failure: the others go on, while the device answers."""
    try:
        yield
    except Exception as error:
        blame(name, error)
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

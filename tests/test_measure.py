"""Taking samples: in turns, within a budget, with failures apart; compile time, wall time and graphs."""

import pytest

from gatefuse.bench.clocks import CpuClock
from gatefuse.bench.measure import GRAPH_CALL, measure


class FakeClock:
    """A device on which a call takes what the call returns, in seconds: half as long on replay, twice on the wall."""

    def __init__(self, capturable=()):
        self.capturable = capturable

    def first(self, call):
        seconds = call()
        return seconds, seconds

    def sample(self, call, repeats):
        return call()

    def wall(self, call):
        return 2 * call()

    def repeats(self, seconds):
        return 1

    def graphed(self, call):
        seconds = call()
        return (lambda: seconds / 2) if seconds in self.capturable else None

    def peak_memory(self, call):
        return 5.0


def compiling(first, steady):
    """A call that takes ``first`` seconds in its first runs, one by one, and ``steady`` after."""
    left = list(first)
    return lambda: left.pop(0) if left else steady


def test_samples_are_taken_in_turns():
    seen = []
    calls = {name: (lambda name=name: seen.append(name)) for name in "abc"}

    class Clock(CpuClock):
        def repeats(self, seconds):
            return 1

    found = measure(calls, Clock(), budget=10.0, rounds=8, warmup=1)
    assert all(len(samples.seconds) == 8 for samples in found.values())
    turns = seen[-8 * 6 :]  # each sample has an unmeasured call ahead
    assert turns[::2] == turns[1::2]
    orders = {tuple(turns[k : k + 6 : 2]) for k in range(0, len(turns), 6)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 2


def test_a_budget_cuts_rounds_but_not_below_the_least():
    assert len(measure({"a": lambda: None}, CpuClock(), budget=0.0)["a"].seconds) == 5


def test_short_calls_are_repeated_within_a_sample():
    clock = CpuClock()
    assert clock.repeats(1e-5) == 100
    assert clock.repeats(1.0) == 1


def test_one_that_raises_leaves_the_others_alone():
    def fail():
        raise RuntimeError("no kernel\nfor this")

    found = measure({"bad": fail, "good": lambda: None}, CpuClock(), budget=1.0)
    assert found["bad"].failure == "RuntimeError: no kernel for this"
    assert len(found["good"].seconds) == 20


def test_compiling_is_what_first_calls_take_beyond_steady_ones():
    calls = {"eager": compiling([], 0.5), "jit": compiling([3.0, 0.5, 2.5], 0.5)}
    found = measure(calls, FakeClock(), budget=1.0)
    assert found["eager"].compiling == 0.0
    assert found["jit"].first_call == 3.0
    assert found["jit"].compiling == pytest.approx((3.0 - 0.5) + (2.5 - 0.5))


def test_the_wall_is_the_sample_where_a_device_has_no_time_of_its_own():
    samples = measure({"a": lambda: None}, CpuClock(), budget=1.0)["a"]
    assert samples.wall == samples.seconds


def test_short_calls_that_can_be_captured_are_replayed():
    short, other, long = GRAPH_CALL / 2, GRAPH_CALL / 4, GRAPH_CALL * 2
    calls = {"short": lambda: short, "other": lambda: other, "long": lambda: long}
    found = measure(calls, FakeClock(capturable=(short, long)), budget=1.0)
    assert set(found["short"].graph) == {short / 2}
    assert found["other"].graph == []
    assert not found["other"].failure
    assert found["long"].graph == []
    assert set(found["short"].wall) == {2 * short}
    assert found["short"].peak_memory == 5.0
    assert measure(calls, FakeClock(capturable=(short,)), budget=1.0, graphs=False)["short"].graph == []


def test_a_replay_that_raises_costs_the_graph_alone():
    class Clock(FakeClock):
        def graphed(self, call):
            return lambda: 1 / 0

    samples = measure({"a": lambda: 1e-3}, Clock(), budget=1.0)["a"]
    assert (samples.graph, samples.failure, len(samples.seconds)) == ([], "", 20)

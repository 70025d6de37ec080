"""Taking samples: in turns, within a budget, with failures apart; compile time, wall time and graphs."""

import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from gatefuse.bench.measure.clocks import CpuClock, GpuClock
from gatefuse.bench.measure.sampling import ENOUGH, GRAPH_CALL, measure
from gatefuse.kernels.runtime.graphs import capture as cuda_graphs


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


def test_those_close_to_the_fastest_take_more_rounds():
    def taking(seconds):
        return lambda: time.sleep(seconds) or seconds

    def fail():
        raise RuntimeError("too slow to count")

    calls = {"slow": taking(0.02), "a": taking(0.002), "b": taking(0.0022), "broken": fail}
    found = measure(calls, FakeClock(), budget=0.3)
    assert len(found["slow"].seconds) < ENOUGH
    assert len(found["a"].seconds) == len(found["b"].seconds) == ENOUGH
    assert not found["broken"].seconds


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


@pytest.mark.slow
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


class FakeCuda:
    """torch.cuda as far as GpuClock asks for it: a device whose calls take what ``work`` adds to its time."""

    def __init__(self, capture_fails=False):
        self.now, self.stream_now, self.capture_fails, self.log = 0.0, "first", capture_fails, []
        self.CUDAGraph = lambda: SimpleNamespace(replay=lambda: self.work(0.5e-3), reset=lambda: None)
        self.is_initialized = lambda: True

    def work(self, seconds, result=None):
        if self.log[-1:] == ["capture"] and self.capture_fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.now += seconds
        return result

    def Event(self, enable_timing):
        event = SimpleNamespace()
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda end: (end.at - event.at) * 1e3
        return event

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: self.log.append("wait"))

    def current_stream(self):
        return SimpleNamespace(wait_stream=lambda other: self.log.append("wait"), name=self.stream_now)

    def set_stream(self, stream):
        self.stream_now = stream.name

    @contextmanager
    def stream(self, stream):
        before, self.stream_now = self.stream_now, "side"
        yield
        self.stream_now = before

    def graph_pool_handle(self):
        return 0, 7

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.log.append("capture")
        self.stream_now = "side"
        yield  # one that raises leaves its stream behind, as torch's does
        self.stream_now = "first"
        self.log.append("captured")

    def synchronize(self):
        if self.log[-1:] == ["capture"]:
            self.log.append("failed")
            raise RuntimeError("a dependency was created on uncaptured work")

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=1 << 20)

    def current_device(self):
        return 0

    def reset_peak_memory_stats(self):
        self.log.append("reset")

    def memory_allocated(self):
        return 1000

    def max_memory_allocated(self):
        return 1750


@pytest.fixture
def cuda(monkeypatch):
    """A factory of such a device in torch.cuda's place."""
    empty = torch.empty

    def make(**more):
        found = FakeCuda(**more)
        monkeypatch.setattr(torch, "cuda", found)
        monkeypatch.setattr(cuda_graphs, "take", lambda: SimpleNamespace(stream=found.Stream()))
        monkeypatch.setattr(cuda_graphs, "give_back", lambda taken: None)
        monkeypatch.setattr(torch, "empty", lambda *size, device, **kind: empty(1, **kind))
        return found, GpuClock()

    return make


def test_a_gpu_s_sample_lies_between_its_events(cuda):
    device, clock = cuda()
    assert clock.sample(lambda: device.work(2e-3), 3) == pytest.approx(2e-3)
    assert clock.peak_memory(lambda: device.work(1.0)) == 750.0
    assert clock.repeats(1e-6) == 1
    seconds, result = clock.first(lambda: device.work(1.0, "done"))
    assert result == "done"
    assert seconds < 1.0  # the host's own


def test_a_gpu_s_call_is_captured_after_a_call_on_the_same_stream(cuda):
    device, clock = cuda()
    found = measure({"a": lambda: device.work(1e-3)}, clock, budget=1.0)["a"]
    assert device.log.index("capture") > device.log.index("wait")
    assert set(map(round_to_us, found.seconds)) == {1000}
    assert set(map(round_to_us, found.graph)) == {500}


def test_a_capture_that_fails_leaves_the_stream_as_it_was(cuda):
    device, clock = cuda(capture_fails=True)
    found = measure({"a": lambda: device.work(1e-3)}, clock, budget=1.0)["a"]
    assert (found.graph, found.failure, device.stream_now) == ([], "", "first")
    assert device.log[-2:] == ["capture", "failed"]
    assert round_to_us(clock.sample(lambda: device.work(1e-3), 1)) == 1000


def round_to_us(seconds):
    return round(seconds * 1e6)

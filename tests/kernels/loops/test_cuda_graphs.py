"""Captures, with torch.cuda replaced: one that fails leaves the stream and the allocator as they were."""

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from gatefuse.bench.measure.clocks import GpuClock
from gatefuse.kernels.runtime import cuda_graphs, recording

CUDA = torch.device("cuda", 0)


class FakeCuda:
    """torch.cuda as far as a capture asks for it.

    Args:
        leaves: a capture that fails leaves its pool begun, as up to torch 2.11.
    """

    def __init__(self, leaves):
        self.leaves, self.begun, self.pools, self.log = leaves, set(), 0, []
        self.now = self.main = self.Stream()
        self.CUDAGraph = lambda: SimpleNamespace(replay=lambda: self.log.append("replay"))

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda other: None, cuda_stream=0)

    def current_stream(self, device=None):
        return self.now

    def set_stream(self, stream):
        self.now = stream

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    def graph_pool_handle(self):
        self.pools += 1
        return 0, self.pools

    def graph(self, graph, pool=(0, -1), stream=None, capture_error_mode="global"):
        cuda = self

        class Graph:  # as torch/cuda/graphs.py: what ends the capture raises ahead of going back to the stream
            def __enter__(self):
                self.before, cuda.now = cuda.now, stream
                cuda.begun.add(pool)

            def __exit__(self, kind, *rest):
                if not (kind and cuda.leaves):
                    cuda.begun.remove(pool)
                if kind:
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
                cuda.now = self.before

        return Graph()

    def end(self, device, pool):
        if pool not in self.begun:
            raise RuntimeError("not currently recording to mempool_id")
        self.begun.remove(pool)
        self.log.append("end")

    def release(self, device, pool):
        self.log.append("release")

    def current_device(self):
        return 0

    def is_current_stream_capturing(self):
        return False

    def synchronize(self):
        pass

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=1)


@pytest.fixture
def make(monkeypatch):
    """A factory of such a device in torch.cuda's place."""
    empty = torch.empty

    def make(leaves=True):
        found = FakeCuda(leaves)
        monkeypatch.setattr(torch, "cuda", found)
        monkeypatch.setattr(torch, "empty", lambda *size, device, **kind: empty(1, **kind))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", found.end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", found.release, raising=False)
        monkeypatch.setattr(cuda_graphs, "_held", set())
        return found

    yield make
    recording.forget()


def fails_at(call):
    calls = []

    def function(*inputs):
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("operation not permitted when stream is capturing")
        return (torch.zeros(1),)

    return function


def record(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return recording.find("key", function, (torch.zeros(1),))


def time(function):
    return GpuClock().graphed(function)


@pytest.mark.parametrize("by", [record, time])
def test_a_capture_that_works_goes_back_to_the_stream(make, by):
    cuda = make()
    assert by(fails_at(0)) is not None
    assert (cuda.now, cuda.begun) == (cuda.main, set())
    assert not {"end", "release"} & set(cuda.log)


@pytest.mark.parametrize("by", [record, time])
@pytest.mark.parametrize("leaves", [True, False], ids=["torch 2.11", "torch 2.12"])
def test_a_capture_that_fails_leaves_nothing_behind(make, by, leaves):
    cuda = make(leaves)
    assert by(fails_at(2)) is None
    assert (cuda.now, cuda.begun) == (cuda.main, set())
    assert cuda.log == (["end", "release"] if leaves else [])  # a pool that is released twice aborts the process
    assert cuda_graphs.allowed(CUDA)


@pytest.mark.parametrize("by", [record, time])
def test_where_it_can_t_be_ended_there_is_no_other(make, by, monkeypatch):
    cuda = make()
    monkeypatch.delattr(torch._C, "_cuda_endAllocateToPool")
    assert recording.possible(CUDA)
    assert by(fails_at(2)) is None
    assert cuda.now is cuda.main
    assert not recording.possible(CUDA)
    assert not cuda_graphs.allowed(torch.device("cuda"))
    monkeypatch.setattr(GpuClock, "__init__", lambda self: setattr(self, "_flush", SimpleNamespace(device=CUDA)))
    assert time(fails_at(0)) is None

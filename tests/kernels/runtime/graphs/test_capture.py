"""Captures, with torch.cuda replaced: one that fails leaves the stream and the allocator as they were, and what cuBLAS
writes into belongs to the graph that is captured, for as long as it may be replayed."""

import warnings
from collections import defaultdict
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from gatefuse.bench.measure.clocks import GpuClock
from gatefuse.kernels.runtime.graphs import capture as cuda_graphs
from gatefuse.kernels.runtime.graphs import capture_streams, recording

CUDA = torch.device("cuda", 0)


class FakeCuda:
    """torch.cuda as far as a capture asks for it.

    Args:
        leaves: a capture that fails leaves its pool begun, as up to torch 2.11.
    """

    def __init__(self, leaves):
        self.leaves, self.begun, self.pools, self.log = leaves, set(), 0, []
        self.ring, self.asked, self.pool, self.workspaces = [self._stream() for _ in range(2)], 0, None, {}
        self.now = self.main = self._stream()

    def _stream(self):
        return SimpleNamespace(wait_stream=lambda other: None, cuda_stream=0)

    def Stream(self, device=None):  # torch's own in turn; two here are its 32
        self.asked += 1
        return self.ring[self.asked % len(self.ring)]

    def CUDAGraph(self):
        graph = SimpleNamespace(stream=None, replay=lambda: self.log.append("replay"))

        def reset():  # as from torch 2.13 on
            self.workspaces.pop(id(graph.stream), None)
            self.log.append("reset")

        graph.reset = reset
        return graph

    def MemPool(self):
        return SimpleNamespace(id=self.graph_pool_handle())

    @contextmanager
    def use_mem_pool(self, pool):
        before, self.pool = self.pool, pool.id
        yield
        self.pool = before

    def multiply(self, device=0):
        """Where cuBLAS's workspace lies: torch makes one where the current stream has none."""
        return self.workspaces.setdefault(id(self.now), SimpleNamespace(pool=self.pool))

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
                self.before, cuda.now, cuda.pool, graph.stream = cuda.now, stream, pool, stream
                cuda.begun.add(pool)

            def __exit__(self, kind, *rest):
                cuda.pool = None
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

    def is_initialized(self):
        return False

    def is_current_stream_capturing(self):
        return False

    def synchronize(self):
        pass

    def get_device_properties(self, device):
        return SimpleNamespace(L2_cache_size=1)

    def get_device_capability(self, device):
        return 9, 0


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
        monkeypatch.setattr(capture_streams, "_free", defaultdict(list))
        monkeypatch.setattr(capture_streams, "_new_stream", lambda device: found._stream())
        monkeypatch.setattr(capture_streams, "_multiply", found.multiply)
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


def test_a_graph_s_products_write_into_memory_that_outlives_it(make):
    """Not into the workspace of a stream that others may use, nor into ordinary memory, nor into one another's."""
    cuda = make()
    for k in range(4):  # torch's own streams come again
        cuda.Stream()
        with cuda.stream(cuda.ring[k % 2]):
            cuda.multiply()
    starts, found = zip(*[cuda_graphs.capture(lambda: cuda.multiply()) for _ in range(4)], strict=True)
    assert all(workspace.pool is not None for workspace in found)
    assert len({workspace.pool for workspace in found}) == 4
    assert all(stream not in cuda.workspaces or cuda.workspaces[stream].pool is None for stream in map(id, cuda.ring))
    assert len(starts) == 4


def test_a_stream_is_captured_again_when_its_graph_is_gone(make):
    """With a workspace in the same lasting pool, though the graph that went took the first one with it."""
    cuda = make()
    first, before = cuda_graphs.capture(cuda.multiply)
    other, kept = cuda_graphs.capture(cuda.multiply)
    del first
    assert cuda.log == ["reset"]
    again, after = cuda_graphs.capture(cuda.multiply)
    assert after.pool == before.pool != kept.pool
    assert cuda.pools == 2 + 3  # a lasting one for each stream, and each graph's own
    again()
    other()
    assert cuda.log == ["reset", "replay", "replay"]


def test_a_stream_whose_capture_failed_is_not_taken_again(make):
    cuda = make()
    with pytest.raises(RuntimeError, match="operation failed due to a previous error"):
        cuda_graphs.capture(fails_at(2))
    assert not capture_streams._free[0]
    assert cuda_graphs.capture(cuda.multiply)[1].pool is not None


@pytest.mark.parametrize(
    ("config", "capability", "expected"),
    [
        (None, (9, 0), 32 * 2**20),
        (None, (12, 0), 32 * 2**20),
        (None, (8, 6), 8 * 2**20 + 2**17),
        (":4096:8", (8, 0), 32 * 2**20),
        (":4096:2:16:8", (9, 0), 8 * 2**20 + 2**17),
        (":0:0", (9, 0), 0),
        ("unreadable", (9, 0), 32 * 2**20),
    ],
)
def test_a_recording_counts_its_workspace(make, monkeypatch, config, capability, expected):
    cuda = make()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", config)
    cuda.get_device_capability = lambda device: capability
    assert capture_streams.workspace_bytes(CUDA) == expected
    assert capture_streams.workspace_bytes(torch.device("cpu")) == 0
    monkeypatch.setattr(recording, "workspace_bytes", lambda device: capture_streams.workspace_bytes(CUDA))
    assert record(fails_at(0)).bytes == 4 + 2 * 2**20 + expected


def test_without_a_stream_of_the_driver_s_nothing_is_captured(monkeypatch):
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(capture_streams.ctypes, "CDLL", absent)
    with pytest.raises(RuntimeError, match=r"capturing needs a stream of CUDA's driver. Got libcuda.so.1: cannot"):
        capture_streams._new_stream(0)
    refusing = SimpleNamespace(cuStreamCreate=lambda *rest: 201)
    monkeypatch.setattr(capture_streams.ctypes, "CDLL", lambda name: refusing)
    with pytest.raises(RuntimeError, match=r"Got its error 201."):
        capture_streams._new_stream(0)

"""Capturing a function's kernels as a CUDA graph, so that a capture that fails leaves nothing behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from gatefuse.kernels.runtime.graphs.capture_streams import CaptureStream, give_back, take

# Devices whose memory a failed capture holds for good, where torch has no function that ends it.
_held: set[int] = set()


def allowed(device: torch.device) -> bool:
    """Whether another capture may be tried on a GPU: not where one failed and could not be ended."""
    return (torch.cuda.current_device() if device.index is None else device.index) not in _held


def capture(function: Callable[[], Any], mode: str = "thread_local") -> tuple[Callable[[], Any], Any]:
    """What starts all kernels of a function at once, and what they write.

    The function runs once before: libraries set themselves up then, which can't be recorded.

    Args:
        mode: torch's capture_error_mode; by default other threads, such as one that loads data, may go on using the
            device meanwhile.
    """
    # On another stream than the captured one, for which libraries would keep memory that isn't the graph's.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)
    taken, pool = take(), torch.cuda.graph_pool_handle()
    graph = torch.cuda.CUDAGraph()
    # Where capturing fails the stream is not used again, as there is no saying what is left on it.
    with _undone(pool), torch.cuda.graph(graph, pool=pool, stream=taken.stream, capture_error_mode=mode):
        outputs = function()
    return _Replay(graph, taken), outputs


class _Replay:
    """What starts a graph; with it go the graph and its claim on the stream it was captured on."""

    def __init__(self, graph: torch.cuda.CUDAGraph, taken: CaptureStream):
        self._graph = graph
        weakref.finalize(self, _end, graph, taken).atexit = False

    def __call__(self) -> None:
        self._graph.replay()


def _end(graph: torch.cuda.CUDAGraph, taken: CaptureStream) -> None:
    graph.reset()  # now, as it may free the workspace of its stream, which the next graph there is to have anew
    give_back(taken)


@contextmanager
def _undone(pool: Any) -> Iterator[None]:
    """Undo what a capture into that pool leaves behind where it fails.

    torch.cuda.graph ends the capture before it goes back to the caller's stream, which an error there prevents; and up
    to torch 2.11 the allocator then believes in the capture forever, and gives no memory back to the device.
    """
    here, device = torch.cuda.current_stream(), torch.cuda.current_device()
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(here)
        try:
            end, release = torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool
        except AttributeError:
            _held.add(device)
        else:
            with suppress(Exception):  # torch has ended it
                end(device, pool)
                release(device, pool)
        with suppress(Exception):  # the error of the capture comes back once more
            torch.cuda.synchronize()
        raise

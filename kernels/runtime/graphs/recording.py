"""Functions of tensors recorded as CUDA graphs, whose kernels the host starts all at once.

A graph's addresses are fixed: a recording owns its inputs, into which a call's are copied, and its outputs, which the
caller copies before the next call. Recordings that were not used for long make room for others.
"""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.runtime.graphs.capture import allowed, capture
from gatefuse.kernels.runtime.graphs.capture_streams import workspace_bytes

# Bytes that all recordings may take, and how many there may be, as a device's driver has memory of its own for each;
# the latest is kept in any case.
ROOM, MOST = 2**30, 256
_REMEMBERED = 4096  # keys
_MIB = 2**20

# Held by a caller from the first input that it copies to the last output.
lock = RLock()
_asked: OrderedDict[Hashable, None] = OrderedDict()
_recordings: OrderedDict[Hashable, Recording | None] = OrderedDict()


def possible(device: torch.device) -> bool:
    """Whether kernels can be recorded here: on a GPU, outside a capture of the caller's own, which takes the kernels as
    they are, and unless GATEFUSE_GRAPHS=0 in the environment forbids it."""
    if device.type != "cuda" or os.environ.get("GATEFUSE_GRAPHS", "1") == "0":
        return False
    return allowed(device) and not torch.cuda.is_current_stream_capturing()


def again(key: Hashable) -> bool:
    """Whether that key was asked for before; what runs once is not worth a recording."""
    with lock:
        known = key in _asked
        _asked[key] = None
        _asked.move_to_end(key)
        if len(_asked) > _REMEMBERED:
            _asked.popitem(last=False)
        return known


def find(key: Hashable, function: Callable[..., Any], inputs: tuple[Tensor | None, ...]) -> Recording | None:
    """The recording of that key on this stream, made of ``function(*inputs)`` where there is none yet.

    None where recording failed, which a RuntimeWarning says once, and where it can't be made now, as what is allocated
    here belongs to somebody else.
    """
    device = next(v.device for v in inputs if v is not None)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    full = key, device, stream
    with lock:
        if full not in _recordings:
            if device.type == "cuda" and not _lasting(device):
                return None
            try:
                _recordings[full] = Recording(function, inputs)
            except RuntimeError as error:
                text = f"kernels are launched one by one, as recording them failed: {error}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
                _recordings[full] = None
            _make_room()
        _recordings.move_to_end(full)
        return _recordings[full]


def _lasting(device: torch.device) -> bool:
    """Whether what this thread allocates is its own: not so within torch.cuda.use_mem_pool, nor while torch.compile's
    CUDA graphs warm up, which is no capture yet, but into memory that they later give to other tensors."""
    probe = torch.empty(1, device=device)
    try:
        segments = torch.cuda.memory_snapshot()
    except RuntimeError:  # an allocator that keeps no such list
        return True
    for segment in segments:
        if 0 <= probe.data_ptr() - segment["address"] < segment["total_size"]:
            return tuple(segment["segment_pool_id"]) == (0, 0)  # the pool of all who asked for none
    return True


def _make_room() -> None:
    def full() -> bool:
        return len(_recordings) > MOST or sum(r.bytes for r in _recordings.values() if r) > ROOM

    while len(_recordings) > 1 and full():
        _recordings.popitem(last=False)


def forget() -> None:
    """Free all recordings and their memory, but for cuBLAS's workspaces, which later recordings take over."""
    with lock:
        _recordings.clear()
        _asked.clear()


class Recording:
    """A function's kernels, and the tensors that they read and write: ``function`` takes tensors or None, and returns a
    tuple of such."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Tensor | None, ...]):
        with torch.inference_mode(False), torch.no_grad():
            self.inputs = tuple([None if v is None else v.contiguous().clone() for v in inputs])
            self._replay, self.outputs = capture(lambda: function(*self.inputs))
        given = [v for v in self.inputs if v is not None]
        self.bytes = sum(v.nbytes for v in given) + workspace_bytes(given[0].device)
        self.bytes += pool_bytes([v.nbytes for v in self.outputs if v is not None])

    def __call__(self, inputs: tuple[Tensor | None, ...]) -> Any:
        """The outputs, which change with the next call; an input of None is as in the call before."""
        for mine, given in zip(self.inputs, inputs, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        self._replay()
        return self.outputs


def pool_bytes(sizes: Iterable[int]) -> int:
    """What tensors of so many bytes take at least in a pool of their own, as each graph's outputs have it.

    torch's allocator cuts those of up to 1 MiB from segments of 2 MiB, those below 10 MiB from segments of 20 MiB, and
    gives larger ones a segment each, of whole pieces of 2 MiB. Small ones there always are: what a graph needs within.
    """
    small = medium = large = 0
    for size in sizes:
        if size <= _MIB:
            small += size
        elif size < 10 * _MIB:
            medium += size
        else:
            large += _whole(size, 2 * _MIB)
    return max(_whole(small, 2 * _MIB), 2 * _MIB) + _whole(medium, 20 * _MIB) + large


def _whole(size: int, piece: int) -> int:
    """So many bytes in whole pieces."""
    return -(-size // piece) * piece

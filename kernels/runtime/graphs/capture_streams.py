"""Streams to capture on, each with a workspace of cuBLAS's in memory that nobody frees.

torch keeps a workspace for each pair of a cuBLAS handle and a stream, in the memory of whoever asked first, and a
product writes into that of the stream on which it was captured, wherever its graph is replayed. torch.cuda.Stream()
hands out 32 streams in turn, to all who ask: graphs captured on the same one would write into the same workspace while
both run, and a workspace is freed under a live graph when torch is asked to free all of them, or, from 2.13 on, when
somebody else's graph of that stream goes. So torch hands these streams out to nobody, one graph at a time is
captured on each, and their workspaces lie in pools that last as long as the process.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import defaultdict
from typing import NamedTuple

import torch

_MIB = 2**20
_free: dict[int, list[CaptureStream]] = defaultdict(list)  # by device; all others belong to a graph


class CaptureStream(NamedTuple):
    """A stream, and the pool of the workspace of cuBLAS's for it, which outlives every graph captured there."""

    stream: torch.cuda.Stream
    pool: torch.cuda.MemPool
    device: int


def take() -> CaptureStream:
    """One for a graph on the current device, ready to be captured in this thread.

    Raises:
        RuntimeError: the driver gives no stream.
    """
    device = torch.cuda.current_device()
    try:
        found = _free[device].pop()  # without a lock: a garbage collection within it may come to give_back
    except IndexError:
        found = CaptureStream(_new_stream(device), torch.cuda.MemPool(), device)
    # Each thread has a handle of its own, and a graph that went may have taken the workspace with it.
    with torch.cuda.use_mem_pool(found.pool), torch.cuda.stream(found.stream):
        _multiply(device)
    return found


def give_back(taken: CaptureStream) -> None:
    """Its graph is gone; another may be captured once the device has run what was started, as torch waits for."""
    _free[taken.device].append(taken)


def workspace_bytes(device: torch.device) -> int:
    """What torch asks for as cuBLAS's workspace on a device; 0 for a CPU, which has none.

    As CUBLAS_WORKSPACE_CONFIG has it, ``:KiB:pieces`` once or more; else 32 MiB from Hopper on and on ROCm, else 8.125.
    """
    if device.type != "cuda":
        return 0
    if pieces := re.findall(r":(\d+):(\d+)", os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")):
        return sum(int(size) * 1024 * int(count) for size, count in pieces)
    if torch.version.hip or torch.cuda.get_device_capability(device) >= (9, 0):
        return 32 * _MIB
    return 8 * _MIB + _MIB // 8


def _multiply(device: int) -> None:
    """A product, for which torch makes cuBLAS's workspace."""
    factor = torch.zeros(16, 16, device=torch.device("cuda", device))
    torch.mm(factor, factor)


def _new_stream(device: int) -> torch.cuda.Stream:
    """A stream of the driver's that torch knows of only here. On ROCm it is one of torch's own."""
    if torch.version.hip:
        return torch.cuda.Stream(device)
    stream, unblocked = ctypes.c_void_p(), 1  # CU_STREAM_NON_BLOCKING: it doesn't wait for the default stream
    try:
        status = ctypes.CDLL("libcuda.so.1").cuStreamCreate(ctypes.byref(stream), unblocked)
    except OSError as error:
        raise RuntimeError(f"capturing needs a stream of CUDA's driver. Got {error}") from None
    if status or not stream.value:
        raise RuntimeError(f"capturing needs a stream of CUDA's driver. Got its error {status}.")
    return torch.cuda.ExternalStream(stream.value, device=device)

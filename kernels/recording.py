"""Functions of tensors recorded as CUDA graphs, whose kernels the host starts all at once.

A graph's addresses are fixed: a recording owns its inputs, into which a call's are copied, and its outputs, which the
caller copies before the next call. Recordings that were not used for long make room for others.
"""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.graphs import allowed, capture

# Bytes that the inputs and outputs of all recordings may take; the latest is kept in any case.
ROOM = 2**30
_REMEMBERED = 4096  # keys

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

    None where recording failed, which a RuntimeWarning says once.
    """
    device = next(v.device for v in inputs if v is not None)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    full = key, device, stream
    with lock:
        if full not in _recordings:
            try:
                _recordings[full] = Recording(function, inputs)
            except RuntimeError as error:
                text = f"kernels are launched one by one, as recording them failed: {error}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
                _recordings[full] = None
            _make_room()
        _recordings.move_to_end(full)
        return _recordings[full]


def _make_room() -> None:
    while len(_recordings) > 1 and sum(r.bytes for r in _recordings.values() if r) > ROOM:
        _recordings.popitem(last=False)


def forget() -> None:
    """Free all recordings and their memory."""
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
        tensors = [v for v in (*self.inputs, *self.outputs) if v is not None]
        self.bytes = sum(v.numel() * v.element_size() for v in tensors)

    def __call__(self, inputs: tuple[Tensor | None, ...]) -> Any:
        """The outputs, which change with the next call; an input of None is as in the call before."""
        for mine, given in zip(self.inputs, inputs, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        self._replay()
        return self.outputs

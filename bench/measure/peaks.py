"""Peaks of a device, measured beside the contenders, and the least time that a call could take by them.

    floor = max(flop / matrix rate, bytes / copy rate) + meetings * barrier

flop, bytes and meetings are measure/work.py's. The matrix rate is that of a large product in the row's dtype, in tf32
for float32 where torch.backends.cudnn.allow_tf32 allows it; on a CPU that of torch's product or of gatefuse's,
whichever is faster, as a library of products may not know the processor. The copy rate counts bytes read plus bytes
written; the barrier is that of the programs among which the grid driver shares out the weights, or, where one program
can hold them, that of its own threads. On a CPU a meeting costs nothing here.

Neither part is a law of nature: weights that stay in a cache between calls move no bytes. A share of the floor above 1
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from math import isnan
from typing import Any, NamedTuple

import torch

from gatefuse.bench.measure.clocks import Clock
from gatefuse.bench.measure.work import traffic
from gatefuse.bench.suite.sweeps import Group
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.runtime.device import limits
from gatefuse.kernels.runtime.settings import tf32_allowed
from gatefuse.kernels.task import Request
from gatefuse.kernels.tiling.tiles import grid_tiles

# Rows of the square product, and bytes of the copy: large enough to fill the device, in tens of milliseconds.
_PRODUCT = {"cpu": 1024, "cuda": 8192}
_COPY = {"cpu": 128 << 20, "cuda": 1 << 30}
_MEETINGS = 2000, 500


NAN = float("nan")


class Floor(NamedTuple):
    """The least time of a call and what it follows from; the fields are a row's columns of these names.

    A figure that could not be measured is NaN, and with it the floor; without a barrier's time the floor is that of the
    rest. On a CPU a barrier's time is 0.

    Attributes:
        flop, bytes: that a call needs at least; see measure/work.py.
        matrix_rate, copy_rate, barrier_seconds: what this device did in this run: operations a second of a large
            product, bytes a second of a large copy, seconds of one barrier.
        floor_seconds, floor_by: the least time that a call could take, and which of ``matrix``, ``bytes`` and
            ``barrier`` is the largest part of it.
    """

    flop: float
    bytes: float
    matrix_rate: float
    copy_rate: float
    barrier_seconds: float
    floor_seconds: float
    floor_by: str


UNKNOWN = Floor._make((*[NAN] * 6, ""))


def _any_call(device: torch.device, dtype: torch.dtype) -> Request:
    return Request(find_cell("elman"), device, dtype, T=1, B=1, H=1)


class Limits:
    """A device's limits, each measured when first asked for and then kept.

    Args:
        meets: the barrier may be measured; where it is known to hang it may not.
    """

    def __init__(self, device: torch.device, clock: Clock, meets: bool = True):
        self.device = device
        self.clock = clock
        self._meets = meets
        self.matrix_rate = _or_nan(self._matrix_rate)
        self.copy_rate = _or_nan(self._copy_rate)
        self.barrier = _or_nan(self._barrier)

    def floor(self, group: Group) -> Floor:
        """The least time of one call of a group."""
        needed = traffic(group)
        matrix, copy, barrier = self.matrix_rate(group.dtype), self.copy_rate(), self.barrier(*self._meeting(group))
        parts = {"matrix": needed.flop / matrix, "bytes": needed.bytes / copy, "barrier": needed.meetings * barrier}
        if isnan(barrier):
            del parts["barrier"]
        if any(isnan(seconds) for seconds in parts.values()):
            return Floor(needed.flop, needed.bytes, matrix, copy, barrier, NAN, "")
        seconds = max(parts["matrix"], parts["bytes"]) + parts.get("barrier", 0.0)
        by = max(parts, key=lambda name: parts[name])
        return Floor(needed.flop, needed.bytes, matrix, copy, barrier, seconds, by)

    def _meeting(self, group: Group) -> tuple[int, int]:
        """How many programs meet, and how many such meetings go on side by side."""
        if self.device.type == "cpu":
            return 0, 0
        s, dtype, training = group.shape, getattr(torch, group.dtype), group.mode == "training"
        cell, held = find_cell(s.cell), limits(self.device)
        request = Request(cell, self.device, dtype, s.T, s.B, s.H, needs_grad=training)
        if not driver("block").refusal(request):
            return 1, 1
        cut = grid_tiles(cell.program, s.H, s.B, dtype.itemsize, held)
        units = min(cut.units, held.programs)
        return units, min(-(-s.B // cut.BB), held.programs // units)

    def _matrix_rate(self, dtype: str) -> float:
        n = _PRODUCT[self.device.type]
        generator = torch.Generator(self.device).manual_seed(0)
        a, b = (torch.randn(n, n, device=self.device, generator=generator).to(getattr(torch, dtype)) for _ in range(2))
        out = torch.empty_like(a)
        with _tf32_as_cudnn():
            seconds = self._best(lambda: torch.mm(a, b, out=out))
        compiled = a.dtype in (torch.float32, torch.float64) and self.device.type == "cpu"
        if compiled and not driver("llvm").refusal(_any_call(self.device, a.dtype)):
            from gatefuse.kernels.loops.llvm.products import input_gradient

            rows = a.unsqueeze(1)
            seconds = min(seconds, self._best(lambda: input_gradient(rows, b, rows)))
        rate = 2.0 * n**3 / seconds
        # compiled code computes in float32 what is given in 16 bits, for which a processor may have no instructions
        halved = self.device.type == "cpu" and a.dtype.itemsize == 2
        return max(rate, self.matrix_rate("float32")) if halved else rate

    def _copy_rate(self) -> float:
        size = _COPY[self.device.type]
        if self.device.type == "cuda":
            size = min(size, torch.cuda.mem_get_info(self.device)[0] // 8)
        source = torch.ones(size // 4, device=self.device)
        target = torch.zeros_like(source)
        return 2.0 * source.nbytes / self._best(lambda: target.copy_(source))

    def _barrier(self, programs: int, side_by_side: int) -> float:
        if self.device.type == "cpu":
            return 0.0
        if not self._meets:
            return NAN
        return self._barrier_loop(programs, side_by_side)

    def _barrier_loop(self, programs: int, side_by_side: int) -> float:
        from triton.errors import TritonError

        from gatefuse.bench.measure.barrier_loop import barrier_loop_kernel

        form = "block" if programs == 1 else "portable" if torch.version.hip else "ptx"
        # A cooperative launch fails where not all programs can be resident; any other would hang.
        together = {"launch_cooperative_grid": True, "POLLS": debug.polls() if form == "ptx" else 0}
        constants = {"FORM": form, "num_warps": 4, **({} if programs == 1 else together)}
        counters = torch.zeros(side_by_side, dtype=torch.int32, device=self.device)

        def loop(meetings: int) -> Callable[[], object]:
            def call() -> None:
                counters.zero_()
                barrier_loop_kernel[(programs, side_by_side)](counters, meetings, **constants)

            return call

        # The difference is free of launching and of what the launch waits for.
        try:
            many, few = (self._best(loop(meetings)) for meetings in _MEETINGS)
        except TritonError as error:
            raise RuntimeError(f"the barrier does not compile here: {error}") from error
        return max(0.0, (many - few) / (_MEETINGS[0] - _MEETINGS[1]))

    def _best(self, call: Callable[[], object]) -> float:
        """Seconds of the fastest of several calls: what others on the machine take away is no limit of the device."""
        return min(self.clock.sample(call, 1) for _ in range(9))


def _or_nan(figure: Callable[..., float]) -> Callable[..., float]:
    """What can't be measured, for want of memory or of a compiler, is NaN, and the rows are written without it."""

    @cache
    def measured(*arguments: Any) -> float:
        try:
            return figure(*arguments)
        except RuntimeError:
            return NAN

    return measured


@contextmanager
def _tf32_as_cudnn() -> Iterator[None]:
    """Products in float32 are rounded as cuDNN's are, and those of gatefuse's kernels with it."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if tf32_allowed() else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before

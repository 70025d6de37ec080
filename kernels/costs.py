"""What a step is expected to cost by each driver, in microseconds: measured there, or on a GPU else predicted.

Measured costs are rows of measured.csv, which ``python -m gatefuse.bench costs`` takes out of a device's reports.
Predictions are sums of what is counted: launches, meetings at a barrier, products, and bytes read. They rank
gatefuse's own drivers among each other where no row is near, and claim no more.
"""

from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from gatefuse.kernels.equations.program import Program
from gatefuse.kernels.runtime.cpu import cpu_name
from gatefuse.kernels.runtime.device import limits
from gatefuse.kernels.runtime.gpus import gpu
from gatefuse.kernels.task import Request
from gatefuse.kernels.tiling.segments import worth_recording
from gatefuse.kernels.tiling.tiles import block_tiles, grid_backward_tiles, grid_tiles

MEASURED = Path(__file__).with_name("measured.csv")
COLUMNS = ("device", "driver", "cell", "dtype", "mode", "H", "B", "us")


class Cost(NamedTuple):
    """A cost: microseconds a step, with the backward where gradients are wanted, and source, measured or predicted."""

    us: float
    source: str

    def __str__(self) -> str:
        return f"{self.us:.3g} us a step ({self.source})"


class Ceilings(NamedTuple):
    """What a device can do, by the microsecond.

    Attributes:
        matrix: operations in 16 bits.
        exchange: bytes that all programs together read of what the L2 cache holds.
        launch, host: microseconds from one kernel's start to the next, recorded or started by the host; as meeting,
            estimated, and the same on all devices.
        meeting: microseconds from arriving at a barrier to having loaded what the others stored.
    """

    matrix: float
    exchange: float
    launch: float = 2.5
    host: float = 10.0
    meeting: float = 1.7


# The part of the matrix rate that products of a few hundred rows are expected to reach.
_REACHED = 0.5


def cost(name: str, request: Request) -> Cost | None:
    """The cost of a call by the driver of that name; None where nothing is known of it."""
    us = measured(name, request)
    if us is not None:
        return Cost(us, "measured")
    if request.device.type == "cpu":
        return None
    us = predicted(name, request)
    return None if us is None else Cost(us, "predicted")


def measured(name: str, request: Request) -> float | None:
    """The nearest row's cost: same device, driver, cell, dtype and mode, H within a quarter, B within twice."""
    found = _table().get((_device_name(request.device), name, *_kind(request)), {})

    def distance(shape: tuple[int, int]) -> tuple[float, float]:
        return abs(math.log2(shape[0] / request.H)), abs(math.log2(shape[1] / max(1, request.B)))

    near = {shape: sum(d) for shape in found if (d := distance(shape))[0] <= math.log2(1.25) and d[1] <= 1}
    return found[min(near, key=near.__getitem__)] if near else None


def proven(name: str, device: torch.device) -> bool:
    """Whether any call by that driver was measured on such a device."""
    return any(key[:2] == (_device_name(device), name) for key in _table())


def _kind(request: Request) -> tuple[str, str, str]:
    mode = "training" if request.needs_grad else "forward"
    return request.cell.name, str(request.dtype).removeprefix("torch."), mode


def _device_name(device: torch.device) -> str:
    return _gpu_name(device) if device.type == "cuda" else device_of_cpu(cpu_name(), torch.get_num_threads())


def device_of_cpu(model: str, threads: int) -> str:
    """What the table calls a CPU, of which each number of threads is a device of its own."""
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}"


@cache
def _gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


@cache
def _table() -> dict[tuple[str, ...], dict[tuple[int, int], float]]:
    """The measured costs by device, driver, cell, dtype and mode, and by H and B."""
    found: dict[tuple[str, ...], dict[tuple[int, int], float]] = {}
    with MEASURED.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            kind = tuple(row[name] for name in COLUMNS[:5])
            found.setdefault(kind, {})[int(row["H"]), int(row["B"])] = float(row["us"])
    return found


def predicted(name: str, request: Request) -> float | None:
    """The counted cost, in microseconds a step; None for drivers whose cost can't be counted."""
    ways = {"step": _step, "block": _block, "grid": _grid}
    return ways[name](request, request.cell.program) if name in ways else None


@cache
def ceilings(device: torch.device) -> Ceilings:
    """The ceilings of a device, by its compute capability; a CPU's are an H100's, as its limits are."""
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    found = gpu(f"sm_{major}{minor}")
    return Ceilings(found.matrix, found.exchange)


def _meetings(program: Program) -> tuple[int, int]:
    """Stages of a step forward, and phases backward, that have products."""
    return len({p.stage for p in program.products}), sum(phase.stage > 0 for phase in program.phases)


def _rate(request: Request) -> float:
    found = ceilings(request.device).matrix * _REACHED
    return found if request.dtype.itemsize == 2 else found / 2


def _operations(request: Request, program: Program) -> float:
    return 2.0 * program.weighed * request.H * request.H * request.B


def _step(request: Request, program: Program) -> float:
    can = ceilings(request.device)
    forward, backward = _meetings(program)
    computed = len({p.stage for p in program.products if p.computed})
    weights = program.weighed * request.H * request.H * request.dtype.itemsize
    product = max(_operations(request, program) / _rate(request), weights / can.exchange)
    launch = can.launch if worth_recording(request.T, request.B, request.H) else can.host
    us = (forward + computed + 1) * launch + product
    if request.needs_grad:
        us += (backward + len(program.phases)) * launch + product
    return us


def _block(request: Request, program: Program) -> float:
    programs = limits(request.device).programs
    tile = block_tiles(request.H, program=program).BB
    turns = -(-request.B // (tile * programs))
    alone = _operations(request, program) / max(1, request.B) * tile / (_rate(request) / programs)
    # Half a meeting: barriers within a program, and the way through shared memory.
    meeting = ceilings(request.device).meeting / 2
    forward, backward = _meetings(program)
    us = forward * meeting + alone
    if request.needs_grad:
        us += 2 * backward * meeting + alone
    return us * turns


def _grid(request: Request, program: Program) -> float:
    H, B, size = request.H, request.B, request.dtype.itemsize
    held, can = limits(request.device), ceilings(request.device)
    forward, backward = _meetings(program)
    product = _operations(request, program) / _rate(request)
    cut = grid_tiles(program, H, B, size, held)
    tiles = -(-B // cut.BB)
    us = forward * can.meeting + product + tiles * cut.units * cut.BB * H * size / can.exchange
    if request.needs_grad:
        back = grid_backward_tiles(program, H, B, size, held)
        tiles, rows = -(-B // back.BB), back.CHUNKS * back.KC * len(program.columns)
        us += backward * (2 if back.SLICES > 1 else 1.5) * can.meeting + product
        us += tiles * back.units * back.BB * rows * size / can.exchange
    return us

"""The dtype in which a call is computed: its tensors', autocast's, or float32 in the place of 16 bits on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells.gru import gru
from gatefuse.kernels.drivers.half_precision import rounded
from gatefuse.models.execution.context import autocast_on

if TYPE_CHECKING:
    from gatefuse.models.execution.calls import Call, Results

Found = TypeVar("Found")


def lowered(cell: Cell, call: Call, run: Callable[[Call], Found]) -> Found:
    """Run a call: under autocast with all tensors cast first, as torch.lstm and its like do, and autocast off."""
    if not autocast_on(call.x.device):
        return run(call)
    lower = cast(call, running_dtype(cell, call.x))
    with torch.autocast(call.x.device.type, enabled=False):
        return run(lower)


def in_float32(call: Call, run: Callable[[Call], Results]) -> Results:
    """Run a call in float32 and round what comes back to its dtype, but nothing that a layer hands to the next."""
    sequences, finals = run(cast(call, torch.float32))
    return rounded(sequences, call.x.dtype), rounded(finals, call.x.dtype)


def running_dtype(cell: Cell, x: Tensor) -> torch.dtype:
    """The dtype of the computation: autocast's where it is on, as torch.lstm and its like have it; but torch.gru gives
    float32 for float32 on a CPU."""
    if not autocast_on(x.device) or x.dtype == torch.float64:
        return x.dtype
    if cell is gru and x.is_cpu and x.dtype == torch.float32:
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)


def cast(call: Call, dtype: torch.dtype) -> Call:
    """The call with all that is computed with in that dtype."""
    states, weights = tuple([s.to(dtype) for s in call.states]), [w.to(dtype) for w in call.weights]
    fresh = None if call.fresh is None else tuple([s.to(dtype) for s in call.fresh])
    beside = tuple([a.to(dtype) for a in call.inputs])
    return call._replace(x=call.x.to(dtype), states=states, weights=weights, fresh=fresh, inputs=beside)

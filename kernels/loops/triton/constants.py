"""Constants that kernels for all steps are compiled with, in a pass of a cell: its functions, and what a call has."""

from __future__ import annotations

from typing import Any

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.codegen.device_functions import device_functions
from gatefuse.kernels.loops.inputs import Sequence

Call = tuple[int, str, bool, bool, str, tuple[bool, ...]]


def call_of(loop: Sequence, *flags: bool) -> Call:
    """What they depend on beside the cell and the way, as a key; flags are forward whether there are a bias, other
    states to be kept and a backward to come, and backward whether these have gradients."""
    return loop.H, loop.order, loop.restarts is not None, loop.live is not None, loop.precision, flags


def constants(cell: Cell, way: str, call: Call) -> dict[str, Any]:
    """By the names of both kernels' arguments."""
    H, order, restarts, live, precision, flags = call
    functions = device_functions(cell, H)
    found = {
        "CELL": cell_shape(cell), "ORDER": order, "HAS_RESTARTS": restarts, "HAS_LIVE": live, "PRECISION": precision,
    }  # fmt: skip
    if way == "backward":
        return {**found, "BACKWARD": functions.any_backward, "HAS_D_REST": flags[0]}
    named = dict(zip(("HAS_BIAS", "KEEP", "SAVE"), flags, strict=True))
    return {**found, "UPDATE": functions.update, "VECTORS": functions.any_vectors, **named}

"""Inputs beside the gates at an operator's border: they cross it as further features of x.

So operators, and the programs that hold them, are the same for cells with such inputs and without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.models.execution.calls import Call


def joined(call: Call) -> Call:
    """The call, with its inputs behind the features of x: of each one H columns, or where one of them differs from
    layer to layer or by direction, H for each of these."""
    if not call.inputs:
        return call
    rows, H = max(a.shape[0] for a in call.inputs), call.states[0].shape[-1]
    wide = [a.expand(rows, call.T, call.B, H).permute(1, 2, 0, 3).flatten(2) for a in call.inputs]
    return call._replace(x=torch.cat([call.x, *wide], 2), inputs=())


def parted(cell: Cell, x: Tensor, size: int, H: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What joined put together: x of that many features, and the inputs as a Call has them."""
    if not cell.inputs:
        return x, ()
    wide = x[..., size:].unflatten(2, (len(cell.inputs), -1, H)).permute(2, 3, 0, 1, 4)
    return x[..., :size], tuple(wide.unbind(0))

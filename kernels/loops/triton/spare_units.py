"""Hidden units in sixteens, for kernels, which load them in pieces of 16 bytes: spare units fill an H that is none.

A spare unit copies the last one but for the rows that other units multiply it by, which are zero. So it computes no
number that the last doesn't, such as 0 / 0, and nothing of it comes back: nobody reads it, hence no gradient either.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.facts import mixes_units

_PIECE, _LEAST = 8, 64  # numbers of 2 bytes in a piece; below that many units a step is short in any case


def padded(cell: Cell, H: int) -> int:
    """How many units kernels run for H: those of the next sixteen, where H is at least 64 and no multiple of 8. In a
    mean of all units spare ones would count."""
    return H if H < _LEAST or H % _PIECE == 0 or mixes_units(cell.serial) else -(-H // 16) * 16


def wider(states: Tensor, W: int) -> Tensor:
    """Values by unit, (..., H), as (..., W): copies of the last follow."""
    H = states.shape[-1]
    return torch.cat([states, states[..., -1:].expand(*states.shape[:-1], W - H)], -1)


def wider_rows(rows: Tensor, gates: int, W: int) -> Tensor:
    """Rows by gate and unit, (gates * H, ...), as (gates * W, ...)."""
    if not gates:
        return rows
    by_gate = rows.unflatten(0, (gates, -1))
    last = by_gate[:, -1:].expand(-1, W - by_gate.shape[1], *rows.shape[1:])
    return torch.cat([by_gate, last], 1).flatten(0, 1)


def wider_weights(cell: Cell, weights: Sequence[Tensor], bias: bool, W: int) -> list[Tensor]:
    """A direction's weights, as in Task, for W units."""
    N, M, H = len(cell.input_gates), len(cell.recurrent_gates), weights[1].shape[1]
    of_input, of_states, *rest = weights
    found = [wider_rows(of_input, N, W), pad(wider_rows(of_states, M, W), (0, W - H))]
    if bias:
        found += [wider_rows(rest[0], N, W), wider_rows(rest[1], M, W)]
        rest = rest[2:]
    return [*found, *[wider(parameter, W) for parameter in rest]]

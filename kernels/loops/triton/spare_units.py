"""Hidden units in sixteens, for kernels, which load them in pieces of 16 bytes: spare units fill an H that is none."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.facts import mixes_units
from gatefuse.kernels.spare_units import shared_columns, wide, wide_rows

_PIECE, _LEAST = 8, 64  # numbers of 2 bytes in a piece; below that many units a step is short in any case


def padded(cell: Cell, H: int) -> int:
    """How many units kernels run for H: those of the next sixteen, where H is at least 64 and no multiple of 8. In a
    mean of all units spare ones would count."""
    return H if H < _LEAST or H % _PIECE == 0 or mixes_units(cell.serial) else -(-H // 16) * 16


def wider_weights(cell: Cell, weights: Sequence[Tensor], bias: bool, W: int) -> list[Tensor]:
    """A direction's weights, as in Task, for W units."""
    H = weights[1].shape[1]
    of_input, of_states = [H] * len(cell.input_gates), [H] * len(cell.recurrent_gates)
    w_ih, w_hh, *rest = weights
    found = [wide_rows(w_ih, of_input, W), wide_rows(shared_columns(w_hh, W), of_states, W)]
    if bias:
        found += [wide_rows(rest[0], of_input, W), wide_rows(rest[1], of_states, W)]
        rest = rest[2:]
    return [*found, *[wide(parameter, W) for parameter in rest]]

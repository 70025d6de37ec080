"""Spare units: values and weights with more hidden units than a layer has, of which each copies the last.

A spare unit is given copies of all that the last one is, so it computes what that one does, infinite or not, and no
number of its own, such as 0 / 0. What multiplied the last one multiplies it and its copies in parts that are powers of
two, which change no number by rounding but where it underflows. Gradients of all copies add up to the last one's.

Annotations aren't postponed here, since TorchScript reads these functions.
"""

import torch
from torch import Tensor


def wide(values: Tensor, W: int) -> Tensor:
    """Values by unit, (..., H), as (..., W): copies of the last follow."""
    H = values.size(-1)
    if H == W:
        return values
    return torch.cat([values, values[..., -1:].repeat_interleave(W - H, -1)], -1)


def wide_rows(rows: Tensor, units: list[int], W: int) -> Tensor:
    """Rows by gate, of so many units each, with W rows a gate: copies of its last follow."""
    n = min(units) if len(units) > 0 else 0
    if n > 0 and n == max(units):  # all gates at once
        if n == W:
            return rows
        by_gate = rows.unflatten(0, [len(units), n])
        return torch.cat([by_gate, by_gate[:, -1:].repeat_interleave(W - n, 1)], 1).flatten(0, 1)
    found, first = [rows[:0]], 0
    for n in units:
        part = rows[first : first + n]
        found.append(part)
        if n < W:
            found.append(part[-1:].repeat_interleave(W - n, 0))
        first += n
    return torch.cat(found)


def shared_columns(weight: Tensor, W: int) -> Tensor:
    """Columns for W units, of which those from the weight's last on are that unit, and have its column together."""
    n = W - weight.size(1) + 1
    if n == 1:
        return weight
    most = 1
    while most < n:
        most *= 2
    last = weight[:, -1:]
    larger = (last * (2 / most)).repeat_interleave(most - n, 1)
    return torch.cat([weight[:, :-1], larger, (last / most).repeat_interleave(2 * n - most, 1)], 1)

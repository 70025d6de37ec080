"""Two directions that lie side by side, taken apart and put together again.

Of a dimension with blocks of 2 * H units, each block's first H units are the first direction's; shapes are those of
loops/inputs.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# By value of a sequence, the dimension along which directions lie side by side: x, states, weight, bias, parameters,
# restarts, fresh, live. Of restarts each has its own, and live is the same for both.
_EACH, _SAME = "each", "same"
_INPUTS = (2, 2, 0, 0, 1, _EACH, 2, _SAME)
FORWARD = (2, 3, 2, 3, 3)  # output, rest, finals, saved, fed
UPSTREAM = (2, 3, 2)  # output, rest, finals
GRADIENTS = (2, 2, 0, 0, 1, 2)  # x, states, weight, bias, parameters, fresh


def inputs_of(inputs: Sequence[Tensor | None], d: int) -> list[Any]:
    """A sequence's inputs, those of direction d."""
    weight = inputs[2]
    assert weight is not None
    return halves(inputs, _INPUTS, d, weight.shape[1])


def halves(values: Sequence[Tensor | None], dims: Sequence[int | str], d: int, H: int) -> list[Any]:
    """Direction d's part of each value; None stays None."""
    found: list[Tensor | None] = []
    for value, dim in zip(values, dims, strict=True):
        if value is None or dim == _SAME:
            found.append(value)
        elif isinstance(dim, int):
            found.append(value.unflatten(dim, (-1, 2, H)).select(dim + 1, d).flatten(dim, dim + 1))
        else:
            found.append(value[d])
    return found


def join(pairs: Sequence[tuple[Any, Any]], dims: Sequence[int], H: int) -> list[Any]:
    """Both directions' parts put together, value by value."""
    found: list[Tensor | None] = []
    for (first, second), dim in zip(pairs, dims, strict=True):
        if first is None or second is None:
            found.append(None)
        else:
            blocks = [part.unflatten(dim, (-1, H)) for part in (first, second)]
            found.append(torch.stack(blocks, dim + 1).flatten(dim, dim + 2))
    return found


def dense(values: Iterable[Tensor | None]) -> list[Any]:
    """Each value without gaps, as plain has it; None stays None."""
    return [v if v is None or (v.is_contiguous() and not v.is_neg()) else plain(v) for v in values]


def plain(value: Tensor) -> Tensor:
    """The value without gaps, and as its memory has it: not marked as negated."""
    return value.resolve_neg().contiguous() if value.is_neg() else value.contiguous()

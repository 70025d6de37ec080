"""Gradients of gradients, of what one autograd function computes for whole layers: by torch's own operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# (x, states, weights, fresh, inputs) -> the output and the final states, differentiable any number of times
Again = Callable[
    [Tensor, Sequence[Tensor], Sequence[Tensor], Sequence[Tensor] | None, Sequence[Tensor]],
    tuple[Tensor, Sequence[Tensor]],
]


def needed(given: Sequence[Tensor | None]) -> bool:
    """Whether gradients are wanted that only torch's own operators give: such as have gradients, for which alone grad
    mode is on in a backward, or many at once, of autograd's own vmap; or none, where nothing is given."""
    there = [d for d in given if d is not None]
    return torch.is_grad_enabled() or not there or any(map(torch._C._functorch.is_legacy_batchedtensor, there))


def differentiable(
    ctx: Any, leaves: list[Tensor], fresh: int, given: Sequence[Tensor | None], inputs: int = 0
) -> list[Tensor | None]:
    """The gradients of x, the states, the weights, the fresh states and the inputs beside the gates, in this order.

    Args:
        ctx: of a function that has run layers, with ``cell`` and ``again``.
        fresh, inputs: how many fresh states and inputs there are, the last of the leaves.
        given: gradients of the output and the final states.
    """
    if given.count(None) == len(given):  # what follows has none to give
        return [None] * len(leaves)
    create_graph, S = torch.is_grad_enabled(), len(ctx.cell.unchanged().states)
    x, *tensors = leaves
    end = len(tensors) - inputs
    last = end - fresh
    with torch.enable_grad():
        output, finals = ctx.again(x, tensors[:S], tensors[S:last], tensors[last:end] if fresh else None, tensors[end:])
    pairs = [(value, d) for value, d in zip((output, *finals), given, strict=True) if d is not None]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    outputs, upstream = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, upstream, create_graph=create_graph, allow_unused=True))
    return [next(found) if leaf.requires_grad else None for leaf in leaves]

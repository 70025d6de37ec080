"""Gradients of the weights after a loop's steps: one large product for each product of a step, and sums."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from gatefuse.kernels.equations.program import computed_products
from gatefuse.kernels.loops.buffers import Backward, Forward, Gradients
from gatefuse.kernels.loops.inputs import Sequence


def finish(loop: Sequence, kept: Forward, d: Backward) -> Gradients:
    """The gradients after the steps: one large product for each product of a step, and sums over the batch."""
    dtype = loop.x.dtype
    d_weight, d_bias = _weight_gradients(loop, kept, d.r)
    d_parameters = d.parameters.sum(1) if d.parameters.shape[0] else d.parameters.new_empty(0, loop.W)
    d_states, d_fresh = d.states, d.fresh
    if d_states.dtype != dtype:
        d_states, d_parameters = d_states.to(dtype), d_parameters.to(dtype)
        d_fresh = None if d_fresh is None else d_fresh.to(dtype)
    return Gradients(d.x, d_states, d_weight, d_bias, d_parameters, d_fresh)


def _weight_gradients(loop: Sequence, kept: Forward, d_r: Tensor) -> tuple[Tensor, Tensor | None]:
    G, H, D = len(loop.cell.recurrent_gates), loop.H, loop.directions
    if loop.program.in_order and D == 1 and not loop.program.products[0].computed:
        vectors = state_before(loop, kept, loop.program.products[0].state, 0)
        d_weight = torch.mm(d_r.flatten(0, 1).t(), vectors.flatten(0, 1))
        return d_weight, None if loop.bias is None else d_r.sum((0, 1))
    blocks: list[Tensor | None] = [None] * (G * D)
    fed = computed_products(loop.cell)
    for k, p in enumerate(loop.program.products):
        if p.reduces:
            continue
        columns = loop.columns(d_r, k).unflatten(2, (len(p.gates), D, H))
        for d in range(D):
            vectors = (
                kept.fed[fed.index(k)][..., d * H : (d + 1) * H] if k in fed else state_before(loop, kept, p.state, d)
            )
            rows = columns[..., d, :].flatten(2).flatten(0, 1)
            product = torch.mm(rows.t(), vectors.flatten(0, 1))
            for gate, block in zip(p.gates, product.chunk(len(p.gates)), strict=True):
                before = blocks[gate * D + d]  # of the same gate in another product
                blocks[gate * D + d] = block if before is None else before + block
    none = loop.weight.new_zeros(H, H)
    found = [none if block is None else block for block in blocks]
    d_weight = torch.cat(found) if found else torch.zeros_like(loop.weight)
    if loop.bias is None:
        return d_weight, None
    return d_weight, _bias_gradient(loop, d_r)


def _bias_gradient(loop: Sequence, d_r: Tensor) -> Tensor:
    """(G * W,), zero for gates without a product."""
    columns, G = loop.program.columns, len(loop.cell.recurrent_gates)
    sums = d_r.sum((0, 1))
    if columns == tuple(range(G)):
        return sums
    if not G:
        return sums[:0]
    # A list of gates as an index would be copied to the device, and the host would wait for it.
    rows = sums.view(-1, loop.W).unbind(0)
    of_gate: list[list[Tensor]] = [
        [row for row, gate in zip(rows, columns, strict=True) if gate == g] for g in range(G)
    ]
    return torch.cat([reduce(torch.add, each) if each else sums.new_zeros(loop.W) for each in of_gate])


def state_before(loop: Sequence, kept: Forward, state: int, d: int) -> Tensor:
    """A state before each step of direction d, where it begins anew the fresh one, (T, B, H)."""
    sequence, first = kept.output if state == 0 else kept.rest[state - 1], loop.states[state : state + 1]
    units = slice(d * loop.H, (d + 1) * loop.H)
    if loop.directions == 2:
        sequence, first = sequence[..., units], first[..., units]
    if not loop.T:
        return sequence
    vectors = torch.cat([sequence[1:], first] if loop.reverse or d == 1 else [first, sequence[:-1]])
    if loop.restarts is None or loop.fresh is None:
        return vectors
    restarts = loop.restarts.view(loop.directions, loop.T, loop.B)[d]
    return torch.where(restarts.unsqueeze(2), loop.fresh[state, :, units], vectors)

"""Layers of a cell by Triton's kernels, in one direction: one autograd function for all of them.

Small calls on a GPU last as long as the host takes to start them. So a layer is a product, a loop's launches and what
they fill, and backward the launches and the products over all steps: no operator's checks within, and no graph between.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from gatefuse.kernels.cell import Cell, Version
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.codegen.per_cell import per_call
from gatefuse.kernels.loops.again import Again, differentiable, needed
from gatefuse.kernels.loops.buffers import Forward, Gradients, Upstream
from gatefuse.kernels.loops.directions import dense as without_gaps
from gatefuse.kernels.loops.directions import plain
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.layer_weights import dense, weight_shapes
from gatefuse.kernels.loops.registry import run_loop
from gatefuse.kernels.loops.triton.spare_units import padded, wider_weights
from gatefuse.kernels.runtime.device import current
from gatefuse.kernels.runtime.settings import precision
from gatefuse.kernels.spare_units import shared_columns, wide
from gatefuse.kernels.task import Form


def layers(
    cell: Cell, loop: str, x: Tensor, states: Several[Tensor], weights: Several[Tensor], form: Form, again: Again
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers in one direction, without dropout, lengths and resets.

    Args:
        loop: ``step``, ``block`` or ``grid``.
        x: (T, B, I).
        states: (L, B, H) each.
        weights: of each layer in turn, as in Task.
        form: the layers'; x is time first whatever it says.
        again: the same by operators of torch's, for gradients of gradients.

    Returns:
        The output (T, B, H), and the final states (L, B, H).
    """
    version, H = cell.current(), states[0].shape[2]
    if (W := padded(version, H)) != H:
        held = _wider_weights(version, form, x, weights, H, W)
        output, finals = layers(cell, loop, x, [wide(s, W) for s in states], held, form, again)
        return output[..., :H].contiguous(), tuple([s[..., :H].contiguous() for s in finals])
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *states, *weights))
    shapes = _shapes(version, form, x.shape[2], H)
    return Prepared(version, loop, form, again, shapes, needs_grad, precision(x.dtype)).run(x, states, weights)


class Prepared(NamedTuple):
    """Layers for one form of x, as ``layers`` runs them.

    Attributes:
        shapes: those that weights must have.
        precision: how kernels multiply.
    """

    cell: Version
    loop: str
    form: Form
    again: Again
    shapes: tuple[tuple[int, ...], ...]
    needs_grad: bool
    precision: str

    @staticmethod
    def of(
        version: Version, loop: str, x: Tensor, H: int, form: Form, again: Again, needs_grad: bool
    ) -> Prepared | None:
        """For an input like x (T, B, I), and H units; None where kernels are to have spare ones."""
        if padded(version, H) != H:
            return None
        shapes = _shapes(version, form, x.shape[2], H)
        return Prepared(version, loop, form, again, shapes, needs_grad, precision(x.dtype))

    def run(
        self, x: Tensor, states: Several[Tensor], weights: Several[Tensor], inputs: Several[Tensor] = ()
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As ``layers``; inputs beside the gates there are none."""
        if self.needs_grad:
            output, *finals = _Layers.apply(self, x, *states, *weights)
            return output, tuple(finals)
        ran = _run(self, x, states, weights, False)
        return ran[-1][1].output, _finals(ran)


_Ran = list[tuple[Sequence, Forward]]


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepared: Prepared, x: Tensor, *tensors: Tensor):
        S = len(prepared.cell.states)
        ran = _run(prepared, x, tensors[:S], tensors[S:], True)
        kept: list[Tensor | None] = []
        for loop, (output, rest, _, saved, fed) in ran:
            kept += loop.x, loop.states, output, rest, saved, fed, loop.multiplied
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *tensors, *kept)
        ctx.prepared, ctx.cell, ctx.again = prepared, prepared.cell, prepared.again
        # What the caller gets shares no memory with what the backward reads, so that it may be changed in place.
        return ran[-1][1].output.clone(), *_finals(ran)

    @staticmethod
    def backward(ctx: Any, d_output: Tensor | None, *d_finals: Tensor | None):
        saved, given = ctx.saved_tensors, (d_output, *d_finals)
        end = 1 + len(ctx.cell.states) + len(ctx.prepared.shapes)
        if needed(given):
            found = differentiable(ctx, list(saved[:end]), 0, given)
        else:
            found = _gradients(ctx, saved[:end], saved[end:], d_output, d_finals)
        return None, *found


def _run(prepared: Prepared, x: Tensor, states: Several[Tensor], weights: Several[Tensor], save: bool) -> _Ran:
    """Each layer's sequence and what its loop filled."""
    cell, loop, form, _, shapes, *_ = prepared
    L, held = form.num_layers, dense(cell, form, weights, shapes, x)
    each, ran = len(held) // L, []
    with current(x):
        for k in range(L):
            if L > 1:
                first = torch.stack([s[k] for s in states])
            else:
                first = torch.cat(states) if len(states) > 1 else plain(states[0])  # type: ignore[arg-type]
            sequence = _sequence(cell, form, x if k else plain(x), first, held[k * each : (k + 1) * each])
            sequence.precision = prepared.precision
            kept = run_loop(loop, "forward", sequence, save, False)
            ran.append((sequence, kept))
            x = kept.output
    return ran


def _wider_weights(cell: Cell, form: Form, x: Tensor, weights: Several[Tensor], H: int, W: int) -> list[Tensor]:
    """The weights of all layers for W units, of which those beyond H are spare."""
    held = dense(cell, form, weights, _shapes(cell, form, x.shape[2], H), x)
    each, found = len(held) // form.num_layers, []
    for k in range(form.num_layers):
        own = wider_weights(cell, held[k * each : (k + 1) * each], form.bias, W)
        found += [shared_columns(own[0], W) if k else own[0], *own[1:]]
    return found


@per_call
def _shapes(cell: Cell, form: Form, I: int, H: int) -> tuple[tuple[int, ...], ...]:
    return tuple(s for k in range(form.num_layers) for s in weight_shapes(cell, form, H if k else I, H))


def _sequence(cell: Cell, form: Form, x: Tensor, first: Tensor, weights: Several[Tensor]) -> Sequence:
    """A layer's sequence, its input multiplied; ``first`` are its states (S, B, H)."""
    bias = weights[2] if form.bias else None
    return _again(cell, form, linear(x, weights[0], bias), first, weights)


def _again(cell: Cell, form: Form, product: Tensor, first: Tensor, weights: Several[Tensor]) -> Sequence:
    parameters = weights[form.each :]
    rows = torch.stack(parameters) if parameters else product.new_empty(0, first.shape[2])  # type: ignore[arg-type]
    bias = weights[3] if form.bias else None
    return Sequence(cell, product, first, weights[1], bias, rows, None, None, None, "forward")


def _finals(ran: _Ran) -> tuple[Tensor, ...]:
    """The final states, each in memory of its own: it may be changed, resized or written into as an ``out=``."""
    if len(ran) == 1:
        finals = ran[0][1].finals
        return tuple([s.clone() for s in finals.unsafe_split(1)]) if finals.shape[0] > 1 else (finals,)
    return tuple([torch.stack(each) for each in zip(*[kept.finals.unbind() for _, kept in ran], strict=True)])


def _gradients(
    ctx: Any,
    leaves: Several[Tensor],
    saved: Several[Tensor],
    d_output: Tensor | None,
    d_finals: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """Of x, the states and the weights."""
    cell, loop, form, *_ = ctx.prepared
    S, L, wanted = len(cell.states), form.num_layers, ctx.needs_input_grad[1:]
    x, weights, kept = leaves[0], without_gaps(leaves[1 + S :]), without_gaps(saved)
    each, per_layer, (first, output) = len(weights) // L, len(kept) // L, kept[1:3]
    d: Tensor | None = torch.zeros_like(output) if d_output is None else plain(d_output)
    d_states: list[Tensor] = []
    d_weights: list[Tensor | None] = []
    with current(x):
        for k in reversed(range(L)):
            product, first, output, rest, sums, fed, multiplied = kept[k * per_layer : (k + 1) * per_layer]
            own = weights[k * each : (k + 1) * each]
            sequence = _again(cell, form, product, first, own)
            if multiplied is not None and sequence.precision == ctx.prepared.precision:
                sequence.columns_weight = multiplied
            d_last = None
            if d_finals.count(None) < S:
                d_last = torch.stack([torch.zeros_like(first[0]) if v is None else v[k] for v in d_finals])
            assert d is not None
            filled = Forward(output, rest, first, sums, fed)  # but for the finals, which no backward reads
            found = run_loop(loop, "backward", sequence, filled, Upstream(d, None, d_last))
            given = kept[(k - 1) * per_layer + 2] if k else plain(x)
            d_input = wanted[0] if k == 0 else True
            at = 1 + S + k * each
            d, own_gradients = _of_input(cell, form, found, own[0], given, d_input, wanted[at : at + each])
            d_weights = [*own_gradients, *d_weights]
            d_states.insert(0, found.states)
    of_states: Several[Tensor | None] = [None] * S
    if any(wanted[1 : 1 + S]):
        of_states = (d_states[0].unsqueeze(1) if L == 1 else torch.stack(d_states, 1)).unbind()
    return [d, *of_states, *d_weights]


def _of_input(
    cell: Cell, form: Form, found: Gradients, weight: Tensor, x: Tensor, d_input: bool, wanted: Several[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradient of a layer's input, where it is wanted, and of its weights."""
    assert found.x is not None
    rows = found.x.flatten(0, 1)
    d_weight = torch.mm(rows.t(), x.flatten(0, 1)) if wanted[0] else None
    d_x = torch.mm(rows, weight).view(x.shape) if d_input else None
    gradients: list[Tensor | None] = [d_weight, found.weight]
    if form.bias:
        same = cell_shape(cell).ADDITIVE and found.bias is not None
        d_bias = (found.bias.clone() if same else rows.sum(0)) if wanted[2] else None  # type: ignore[union-attr]
        gradients += [d_bias, found.bias]
    return d_x, [*gradients, *(found.parameters.unbind() if cell.parameters else ())]

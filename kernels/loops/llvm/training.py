"""Layers of a cell by compiled code where gradients are wanted: one call for each layer, and backward one for each
layer's steps and one for each of its products over all steps.

What depends on the sizes alone is found once, and kept with the cell; see schedule.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.constexpr import cell_shape
from gatefuse.kernels.loops.again import Again, differentiable, needed
from gatefuse.kernels.loops.directions import plain
from gatefuse.kernels.loops.layer_weights import dense
from gatefuse.kernels.loops.llvm.beside import Differs, differs, wide
from gatefuse.kernels.loops.llvm.division import layout
from gatefuse.kernels.loops.llvm.schedule import readable, run_all
from gatefuse.kernels.loops.llvm.training_calls import Schedule
from gatefuse.kernels.loops.llvm.training_calls import schedule as schedule_of
from gatefuse.kernels.runtime.scratch import until_freed
from gatefuse.kernels.runtime.threads import available
from gatefuse.kernels.task import Form, restarts


def can_train(cell: Cell, form: Form) -> bool:
    """Whether ``layers`` runs that: in one direction, by equations that use the input's part of every gate, of which
    there is one, and no gate's recurrent weights twice."""
    shape, of_weights = cell_shape(cell), [gate for gate in cell.program.columns if gate >= 0]
    once = len(of_weights) == len(set(of_weights))
    # without input weights the forward takes the input for their product, and keeps nothing of what lies beside it
    fed = bool(cell.input_gates) and set(shape.X) >= set(range(shape.G))
    return form.directions == 1 and fed and once


def layers(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    form: Form,
    resets: Tensor | None,
    fresh: Sequence[Tensor] | None,
    again: Again,
    inputs: Sequence[Tensor] = (),
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers in one direction, without dropout.

    Args:
        x: (T, B, I), with a step and a sample, in any order of memory.
        states, fresh: (L, B, H) each.
        weights: of each layer in turn, as in Task.
        form: the layers'; x is time first whatever it says.
        resets: (T, B) or None.
        again: the same by operators of torch's, for gradients of gradients.
        inputs: those beside the gates, (L, T, B, H) each, or 1 in the place of any of these.

    Returns:
        The output (T, B, H), and the final states (L, B, H).
    """
    if fresh is None and resets is not None:
        fresh = [torch.full_like(s, first) for s, first in zip(states, cell.init, strict=True)]
    mask = None if resets is None else restarts(resets, None, False).contiguous()
    prepared = Prepared.of(cell.current(), x, states[0].shape, form, again, mask is not None, inputs)
    return prepared.run(x, states, weights, inputs, mask, fresh or ())


class Prepared(NamedTuple):
    """Layers for one form of x, as ``layers`` runs them.

    Attributes:
        schedule: their calls, for ``settings``: the layout of the weights, and the threads that there were.
        strides: of x, as compiled code reads it.
        output, states: shapes of the output and of each state.
        resets: whether there are any.
        inputs: of what each input beside the gates has parts of its own.
        zeros: whether some gradients of recurrent weights are filled by no product.
        both: whether the two biases have the same gradient.
    """

    cell: Cell
    form: Form
    again: Again
    schedule: Schedule
    settings: tuple[int, int]
    strides: tuple[int, ...]
    output: tuple[int, int, int]
    states: tuple[int, ...]
    resets: bool
    inputs: Differs
    zeros: bool
    both: bool

    @staticmethod
    def of(
        version: Cell,
        x: Tensor,
        states: Sequence[int],
        form: Form,
        again: Again,
        resets: bool = False,
        inputs: Sequence[Tensor] = (),
    ) -> Prepared:
        """For an input like x (T, B, I), states (L, B, H), and inputs beside the gates like these."""
        (T, B, _), H, beside, x = x.shape, states[2], differs(inputs), readable(x)
        settings = layout(T * B), available()
        schedule = _schedule(version, x, H, form, resets, beside, settings)
        zeros = len(version.recurrent_gates) != len(set(version.program.columns) - {-1})
        both, shapes = form.bias and cell_shape(version).ADDITIVE, ((T, B, H), tuple(states))
        return Prepared(version, form, again, schedule, settings, x.stride(), *shapes, resets, beside, zeros, both)

    def run(
        self,
        x: Tensor,
        states: Sequence[Tensor],
        weights: Sequence[Tensor],
        inputs: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        fresh: Sequence[Tensor] = (),
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As ``layers``, with the mask of steps that begin anew, and the states that these begin with."""
        output, *finals = _Layers.apply(self, mask, x, *states, *weights, *fresh, *inputs)
        return output, tuple(finals)

    def now(self, x: Tensor) -> Schedule:
        """The calls for the threads that there are now, and for x as it comes back from whoever has kept it."""
        settings = layout(self.output[0] * self.output[1]), available()
        if settings == self.settings and x.stride() == self.strides:
            return self.schedule
        return _schedule(self.cell, x, self.output[2], self.form, self.resets, self.inputs, settings)


def _schedule(
    version: Cell, x: Tensor, H: int, form: Form, resets: bool, beside: Differs, settings: tuple[int, int]
) -> Schedule:
    return schedule_of(version, x.dtype, *x.shape, x.stride(), H, form, resets, beside, *settings)


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prepared: Prepared, mask: Tensor | None, x: Tensor, *tensors: Tensor):
        cell, schedule, (T, B, H) = prepared.cell, prepared.schedule, prepared.output
        x_now = readable(x)
        states, weights, fresh, inputs = _parted(cell, mask, tensors)
        kept = until_freed(x, schedule.kept)
        finals = [x.new_empty(*prepared.states) for _ in states]
        blocks = [
            kept, x_now, *finals, *map(plain, states),
            *dense(cell, prepared.form, weights, schedule.shapes, x), mask, *map(plain, fresh), *wide(inputs, H),
        ]  # fmt: skip
        run_all(schedule.forward, schedule.bytes[0], blocks, x)
        # What the caller gets shares no memory with what the backward reads, so that it may be changed in place.
        output = kept[schedule.output : schedule.output + T * B * H].view(T, B, H).clone()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(kept, mask, x, *tensors)
        ctx.prepared, ctx.cell, ctx.again = prepared, cell, prepared.again
        return output, *finals

    @staticmethod
    def backward(ctx: Any, d_output: Tensor | None, *d_finals: Tensor | None):
        kept, mask, x, *tensors = ctx.saved_tensors
        kept = kept.contiguous()  # whatever hooks of saved tensors have made of it
        mask = None if mask is None else mask.contiguous()
        given = d_output, *d_finals
        if needed(given):
            fresh = 0 if mask is None else len(ctx.cell.states)
            found = differentiable(ctx, [x, *tensors], fresh, given, len(ctx.cell.inputs))
        else:
            found = _gradients(ctx, kept, mask, x, tensors, d_output, d_finals)
        return None, None, *found


def _gradients(
    ctx: Any, kept: Tensor, mask: Tensor | None, x: Tensor, tensors: Sequence[Tensor], d_output: Tensor | None,
    d_finals: Sequence[Tensor | None],
) -> list[Tensor | None]:  # fmt: skip
    prepared: Prepared = ctx.prepared
    (T, B, H), (L, *_), P = prepared.output, prepared.states, len(prepared.cell.parameters)
    states, weights, fresh, inputs = _parted(prepared.cell, mask, tensors)
    x = readable(x)
    schedule = prepared.now(x)
    d_output = x.new_zeros(T, B, H) if d_output is None else plain(d_output)
    if any(d is not None for d in d_finals):
        d_states = torch.stack([torch.zeros_like(states[0]) if d is None else d for d in d_finals], 1)
    else:
        d_states = x.new_zeros(L, len(states), B, H)
    d_parameters = x.new_zeros(L, P, B, H) if P else None
    d_fresh = None if mask is None else torch.zeros_like(d_states)
    wanted = ctx.needs_input_grad[2]
    d_x = torch.empty_like(x, memory_format=torch.contiguous_format) if wanted else None
    each = len(weights) // L
    linear = each - P
    make = x.new_zeros if prepared.zeros else x.new_empty
    d_weights: list[Tensor | None] = [make(*w.shape) if k % each < linear else None for k, w in enumerate(weights)]
    asked = ctx.needs_input_grad[len(ctx.needs_input_grad) - len(inputs) :]
    d_inputs = [x.new_empty(L, T, B, H) if want else None for want in asked]
    blocks = [
        kept, x, d_output, d_states, d_parameters, d_fresh, d_x,
        *map(plain, states), *map(plain, weights), mask, *map(plain, fresh), *d_weights, *d_inputs,
    ]  # fmt: skip
    run_all(schedule.backward if wanted else schedule.backward[:-1], schedule.bytes[1], blocks, x)
    if prepared.both:
        for layer in range(L):
            both = d_weights[layer * each + 3]
            d_weights[layer * each + 2] = both if both is None else both.clone()
    if d_parameters is not None:
        for layer, sums in enumerate(d_parameters.sum(2)):
            d_weights[layer * each + linear : (layer + 1) * each] = sums.unbind()
    sums = [None if d is None else d.sum_to_size(a.shape) for d, a in zip(d_inputs, inputs, strict=True)]
    return [d_x, *d_states.unbind(1), *d_weights, *(() if d_fresh is None else d_fresh.unbind(1)), *sums]


def _parted(cell: Cell, mask: Tensor | None, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
    """States, weights, fresh states and inputs beside the gates."""
    S, last = len(cell.states), len(tensors) - len(cell.inputs)
    end = last if mask is None else last - S
    return tensors[:S], tensors[S:end], tensors[end:last], tensors[last:]

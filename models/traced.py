"""What torch.compile and torch.export find in place of a time loop: one operator for a direction of a layer.

    gatefuse::sequence             a Task to an Outcome, by a driver
    gatefuse::sequence_gradients   its gradients: the driver runs once more, and autograd goes through it

A loop, torch's own too, would be unrolled for the number of steps of the example. The operator takes the input and all
weights as they are, so that a translation (to ONNX, for one) has whole layers before it. Drivers with kernels have
operators of their own (kernels/ops.py), which torch.compile gets instead. A program that holds an operator runs where
gatefuse is imported and the cell is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import Outcome, Request, Task, Weights, driver
from gatefuse.kernels.ops import LOOPS
from gatefuse.kernels.plan import choose
from gatefuse.models.checks import exporting


def runner(name: str) -> Callable[[Task], Outcome]:
    """What runs a task by that driver: the driver, or while torch traces, the operator that stands for it."""
    if exporting():  # who will run the program isn't known
        return partial(run, by="auto")
    if torch.compiler.is_compiling() and name not in LOOPS:
        return partial(run, by=name)
    return driver(name).run


def run(task: Task, by: str) -> Outcome:
    """The task as the operator, by the driver of that name or "auto"; see Task and Outcome for shapes."""
    weights, S = task.weights, len(task.states)
    results = sequence(
        task.x,
        task.states,
        weights.input,
        weights.recurrent,
        weights.input_bias,
        weights.recurrent_bias,
        weights.parameters,
        task.lengths,
        task.resets,
        task.fresh or (),
        task.cell.key,
        by,
        task.reverse,
        task.all_states,
    )
    return Outcome(tuple(results[:-S]), tuple(results[-S:]))


@torch.library.custom_op("gatefuse::sequence", mutates_args=())
def sequence(
    x: Tensor, states: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None,
    parameters: Sequence[Tensor], lengths: Tensor | None, resets: Tensor | None, fresh: Sequence[Tensor],
    cell: str, by: str, reverse: bool, all_states: bool,
) -> list[Tensor]:  # fmt: skip
    """One direction of one layer.

    Args:
        x: (T, B, I).
        states: (B, H) each.
        parameters: (H,) each.
        fresh: (B, H) each; none for the cell's first states.
        lengths, resets, reverse, all_states: as in Task, with the weights.
        cell, by: the cell's key, and a driver's name or "auto".

    Returns:
        The output (T, B, H), if wanted the other states' sequences, and the final states (B, H).
    """
    inputs = x, states, w_ih, w_hh, b_ih, b_hh, parameters, lengths, resets, fresh
    sequences, finals = _results(inputs, cell, by, reverse, all_states)
    # An operator's results must be its own; with no step, the final states are the first.
    return [*map(Tensor.contiguous, sequences), *[f.clone(memory_format=torch.contiguous_format) for f in finals]]


def _results(inputs: tuple[Any, ...], cell: str, by: str, reverse: bool, all_states: bool) -> Outcome:
    x, states, w_ih, w_hh, b_ih, b_hh, parameters, lengths, resets, fresh = inputs
    weights = Weights(w_ih, w_hh, b_ih, b_hh, tuple(parameters))
    anew = tuple(fresh) if fresh else None
    task = Task(Cell.by_key(cell), x, tuple(states), weights, lengths, resets, anew, reverse, all_states)
    T, B, H = x.shape[0], x.shape[1], w_hh.shape[1]
    flags = {"lengths": lengths is not None, "resets": resets is not None, "all_states": all_states}
    request = Request(task.cell, x.device, x.dtype, T, B, H, torch.is_grad_enabled(), **flags)
    # The tracer's autocast is in the graph already.
    with torch.autocast(x.device.type, enabled=False):
        return driver(choose(request, by).driver).run(task)


@sequence.register_fake
def _(x, states, w_ih, w_hh, b_ih, b_hh, parameters, lengths, resets, fresh, cell, by, reverse, all_states):
    sizes = x.shape[0], *states[0].shape
    sequences = [x.new_empty(sizes) for _ in range(len(states) if all_states else 1)]
    return [*sequences, *[torch.empty_like(s, memory_format=torch.contiguous_format) for s in states]]


# Not by custom_op, below which autograd can't be used.
torch.library.define(
    "gatefuse::sequence_gradients",
    "(Tensor x, Tensor[] states, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor[] parameters, "
    "Tensor? lengths, Tensor? resets, Tensor[] fresh, Tensor?[] d_results, "
    "str cell, str by, bool reverse, bool all_states) -> Tensor[]",
)


def _smooth(inputs: Sequence[Any]) -> list[Tensor | None]:
    """The operator's inputs that have gradients, in a row."""
    x, states, w_ih, w_hh, b_ih, b_hh, parameters, _, _, fresh = inputs
    return [x, w_ih, w_hh, b_ih, b_hh, *states, *parameters, *fresh]


def _inputs(smooth: Sequence[Any], lengths: Any, resets: Any, sizes: tuple[int, int]) -> tuple[Any, ...]:
    """The way back; sizes are the numbers of states and of parameters."""
    x, w_ih, w_hh, b_ih, b_hh, *rest = smooth
    S, P = sizes
    return x, rest[:S], w_ih, w_hh, b_ih, b_hh, rest[S : S + P], lengths, resets, rest[S + P :]


@torch.library.impl("gatefuse::sequence_gradients", "CompositeExplicitAutograd")
def _gradients(*arguments: Any) -> list[Tensor]:
    """Gradients of what has any, in the order of the inputs."""
    inputs, d_results, options = arguments[:10], arguments[10], arguments[11:]
    smooth = [None if t is None else t.detach().requires_grad_() for t in _smooth(inputs)]
    with torch.enable_grad():
        results = _results(_inputs(smooth, inputs[7], inputs[8], _sizes(inputs)), *options)
    flat = *results.sequences, *results.finals
    pairs = [(r, d) for r, d in zip(flat, d_results, strict=True) if d is not None and r.requires_grad]
    outputs, gradients = zip(*pairs, strict=True)
    leaves = [t for t in smooth if t is not None]
    found = torch.autograd.grad(outputs, leaves, gradients, allow_unused=True, materialize_grads=True)
    # An operator's results must be its own.
    return [d.clone(memory_format=torch.contiguous_format) for d in found]


@torch.library.register_fake("gatefuse::sequence_gradients")
def _(*arguments):
    leaves = [t for t in _smooth(arguments[:10]) if t is not None]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in leaves]


def _sizes(inputs: Sequence[Any]) -> tuple[int, int]:
    return len(inputs[1]), len(inputs[6])


def _setup_context(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[7], inputs[8], *_smooth(inputs[:10]))
    ctx.sizes, ctx.options = _sizes(inputs), inputs[10:]


def _backward(ctx, d_results):
    lengths, resets, *smooth = ctx.saved_tensors
    inputs = _inputs(smooth, lengths, resets, ctx.sizes)
    found = iter(torch.ops.gatefuse.sequence_gradients(*inputs, d_results, *ctx.options))
    gradients = [None if t is None else next(found) for t in smooth]
    return *_inputs(gradients, None, None, ctx.sizes), *(None,) * 4


sequence.register_autograd(_backward, setup_context=_setup_context)

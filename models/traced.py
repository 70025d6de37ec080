"""What torch.compile and torch.export find in place of a time loop: one operator for a direction of a layer.

    gatefuse::sequence             a Task to an Outcome, by a driver
    gatefuse::sequence_gradients   its gradients: the driver runs once more, and autograd goes through it

A loop, torch's own too, would be unrolled for the number of steps of the example. The operator takes the input and all
weights as they are, so that a translation (to ONNX, for one) has whole layers before it. Drivers with kernels have
operators of their own (kernels/ops.py), which torch.compile gets instead. A program that holds an operator runs where
gatefuse is imported and the cell is defined.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import Outcome, Request, Task, Weights, driver
from gatefuse.kernels.ops import LOOPS
from gatefuse.kernels.plan import choose


def runner(name: str) -> Callable[[Task], Outcome]:
    """What runs a task by that driver: the driver, or while torch traces, the operator that stands for it."""
    if torch.compiler.is_exporting():  # who will run the program isn't known
        return partial(run, by="auto")
    if torch.compiler.is_compiling() and name not in LOOPS:
        return partial(run, by=name)
    return driver(name).run


def run(task: Task, by: str) -> Outcome:
    """The task as the operator, by the driver of that name or "auto"; see Task and Outcome for shapes."""
    weights, x = task.weights, task.x
    output, rest, finals = sequence(
        x,
        torch.stack(task.states),
        weights.input,
        weights.recurrent,
        weights.input_bias,
        weights.recurrent_bias,
        torch.stack(weights.parameters) if weights.parameters else x.new_empty(0, weights.recurrent.shape[1]),
        task.lengths,
        task.resets,
        None if task.fresh is None else torch.stack(task.fresh),
        task.cell.key,
        by,
        task.reverse,
        task.all_states,
    )
    return Outcome((output, *rest.unbind(0)) if task.all_states else (output,), finals.unbind(0))


@torch.library.custom_op("gatefuse::sequence", mutates_args=())
def sequence(
    x: Tensor, states: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None,
    parameters: Tensor, lengths: Tensor | None, resets: Tensor | None, fresh: Tensor | None,
    cell: str, by: str, reverse: bool, all_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One direction of one layer.

    Args:
        x: (T, B, I).
        states, fresh: (S, B, H).
        parameters: (P, H).
        lengths, resets, reverse, all_states: as in Task, with the weights.
        cell, by: the cell's key, and a driver's name or "auto".

    Returns:
        Output (T, B, H), the other states' sequences (S - 1, T, B, H), empty unless wanted, and finals (S, B, H).
    """
    inputs = x, states, w_ih, w_hh, b_ih, b_hh, parameters, lengths, resets, fresh
    output, rest, finals = _results(inputs, cell, by, reverse, all_states)
    return output.clone(), rest, finals


def _results(
    inputs: tuple[Any, ...], cell: str, by: str, reverse: bool, all_states: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, states, w_ih, w_hh, b_ih, b_hh, parameters, lengths, resets, fresh = inputs
    weights = Weights(w_ih, w_hh, b_ih, b_hh, tuple(parameters.unbind(0)))
    anew = None if fresh is None else tuple(fresh.unbind(0))
    task = Task(Cell.by_key(cell), x, tuple(states.unbind(0)), weights, lengths, resets, anew, reverse, all_states)
    T, B, H = x.shape[0], x.shape[1], states.shape[2]
    flags = {"lengths": lengths is not None, "resets": resets is not None, "all_states": all_states}
    request = Request(task.cell, x.device, x.dtype, T, B, H, torch.is_grad_enabled(), **flags)
    # The tracer's autocast is in the graph already.
    with torch.autocast(x.device.type, enabled=False):
        outcome = driver(choose(request, by).driver).run(task)
    output, *others = outcome.sequences
    rest = torch.stack(others) if others else x.new_empty(0, T, B, H)
    return output, rest, torch.stack(outcome.finals)


@sequence.register_fake
def _(x, states, w_ih, w_hh, b_ih, b_hh, parameters, lengths, resets, fresh, cell, by, reverse, all_states):
    S, B, H = states.shape
    sizes = x.shape[0], B, H
    return x.new_empty(sizes), x.new_empty(S - 1 if all_states else 0, *sizes), torch.empty_like(states)


# Not by custom_op, below which autograd can't be used.
torch.library.define(
    "gatefuse::sequence_gradients",
    "(Tensor x, Tensor states, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor parameters, "
    "Tensor? lengths, Tensor? resets, Tensor? fresh, Tensor? d_output, Tensor? d_rest, Tensor? d_finals, "
    "str cell, str by, bool reverse, bool all_states) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
# Of the inputs, those that have gradients: all but lengths and resets.
_SMOOTH = (0, 1, 2, 3, 4, 5, 6, 9)


@torch.library.impl("gatefuse::sequence_gradients", "CompositeExplicitAutograd")
def _gradients(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of x, states, weights, biases, parameters and fresh; empty where there is no such input."""
    inputs, given, options = list(arguments[:10]), arguments[10:13], arguments[13:]
    for k in _SMOOTH:
        inputs[k] = None if inputs[k] is None else inputs[k].detach().requires_grad_()
    with torch.enable_grad():
        results = _results(tuple(inputs), *options)
    pairs = [(r, d) for r, d in zip(results, given, strict=True) if d is not None and r.requires_grad]
    leaves = [inputs[k] for k in _SMOOTH if inputs[k] is not None]
    outputs, gradients = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, leaves, gradients, allow_unused=True, materialize_grads=True))
    # An operator's results must be its own.
    return tuple(inputs[0].new_empty(0) if inputs[k] is None else next(found).clone() for k in _SMOOTH)


@torch.library.register_fake("gatefuse::sequence_gradients")
def _(*arguments):
    x = arguments[0]
    return tuple(x.new_empty(0) if arguments[k] is None else torch.empty_like(arguments[k]) for k in _SMOOTH)


def _setup_context(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:10])
    ctx.options = inputs[10:]


def _backward(ctx, *given):
    inputs = ctx.saved_tensors
    found = iter(torch.ops.gatefuse.sequence_gradients(*inputs, *given, *ctx.options))
    each = [next(found) if k in _SMOOTH else None for k in range(10)]
    return *[None if v is None else d for v, d in zip(inputs, each, strict=True)], *(None,) * 4


sequence.register_autograd(_backward, setup_context=_setup_context)

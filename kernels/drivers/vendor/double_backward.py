"""Second derivatives of torch's own loops, where the library behind them has none: cuDNN, for one.

A hook waits at the loop's node in the graph of autograd. Where gradients' own gradients are wanted, it runs the eager
loop on what torch's was given, and puts that loop's gradients in place of the library's; else it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import eager
from gatefuse.kernels.drivers.packing import Packing
from gatefuse.kernels.drivers.saving import saved_elsewhere
from gatefuse.kernels.task import Form, Task, Weights


class Given(NamedTuple):
    """What torch's loop was given: all layers and directions, without dropout.

    Attributes:
        x: (T, B, I), or (B, T, I) with batch_first; the rows of a PackedSequence where sizes is given.
        states: (L * D, B, H) each, in the order of packing; none for zeros.
        weights: of each layer and direction in turn.
        sizes: a PackedSequence's batch_sizes.
    """

    cell: Cell
    x: Tensor
    states: Sequence[Tensor]
    weights: Sequence[Tensor]
    form: Form
    sizes: Tensor | None = None


def differentiable(results: Sequence[Tensor], given: Callable[[], Given]) -> None:
    """Let results, torch's loop's output and final states, be differentiated twice where they come of one node.

    Where each comes of its own, the loop is made of torch's operators, which have second derivatives.
    """
    if torch.compiler.is_compiling():  # here, since this may be the frame that torch's compiler comes to
        return
    # To read grad_fn gives the node an object of Python's, and a chain of such nodes is freed one within the other:
    # states carried on through some thousand calls would end the process.
    if not foreign(results[0].device):
        return
    # Someone keeps what autograd saves elsewhere, or not at all; kept here, it would stay in memory.
    if saved_elsewhere():
        return
    node = results[0].grad_fn
    for result in results[1:]:
        source = result.grad_fn
        # torch.nn arranges the states of a PackedSequence after its loop
        if source is not None and source.name() == "IndexSelectBackward0":
            source = source.next_functions[0][0]
        if source is not node:
            return
    if node is not None:
        node.register_hook(partial(_hook, [given()]))


def foreign(device: torch.device) -> bool:
    """Whether a library may run the loop there; on a CPU torch knows second derivatives of all that runs it."""
    return device.type != "cpu"


def _hook(
    kept: list[Given], d_inputs: tuple[Tensor | None, ...], d_results: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...] | None:
    if not torch.is_grad_enabled():
        # The node gives up now what it has saved.
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            kept.clear()
        return None
    (given,) = kept
    tensors = [given.x, *given.states, *given.weights]
    # A hook that knew its node would keep it alive.
    positions = _positions(torch._C._current_autograd_node(), d_inputs, tensors)
    if positions is None:
        return None
    # Views, so that a tensor given twice has two gradients, as the node has.
    inputs = [t.view_as(t) for t in tensors]
    outputs = _again(given, inputs)
    # what a library keeps for itself may follow
    pairs = [(r, d) for r, d in zip(outputs, d_results, strict=False) if d is not None]
    results, gradients = zip(*pairs, strict=True)
    found = torch.autograd.grad(
        results, [inputs[k] for k in positions.values()], gradients, create_graph=True, materialize_grads=True
    )
    each = dict(zip(positions, found, strict=True))
    return tuple([each.get(position) for position in range(len(d_inputs))])


def _positions(
    node: torch.autograd.graph.Node, d_inputs: Sequence[Tensor | None], tensors: Sequence[Tensor]
) -> dict[int, int] | None:
    """Of the node's inputs that have gradients, which tensor each is; None where one is none of these.

    Under autocast the node's inputs are copies, for one.
    """
    edges = {k: get_gradient_edge(t) for k, t in enumerate(tensors) if t.requires_grad}
    found = {}
    for position, (source, number) in enumerate(node.next_functions):
        if source is None or d_inputs[position] is None:
            continue
        k = next((k for k, e in edges.items() if e.node is source and e.output_nr == number), None)
        if k is None:
            return None
        del edges[k]
        found[position] = k
    return found


def _again(given: Given, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Output and final states by the eager loop, of x, the states and the weights among the tensors."""
    x, rest = tensors[0], tensors[1:]
    states, weights = rest[: len(given.states)], rest[len(given.states) :]
    packing = None if given.sizes is None else Packing.of(given.sizes, x.device)
    lengths = None
    if packing is not None:
        x, lengths = packing.unpack(x), packing.lengths.to(x.device)
    elif given.form.batch_first:
        x = x.transpose(0, 1)
    D, each, H = given.form.directions, given.form.each, weights[1].shape[1]
    if not states:
        states = [x.new_zeros(len(weights) // each, x.shape[1], H)] * len(given.cell.states)
    finals = []
    for first in range(0, len(weights) // each, D):
        outputs = []
        for k in range(first, first + D):
            w_ih, w_hh, *biases = weights[k * each : (k + 1) * each]
            b_ih, b_hh = biases if given.form.bias else (None, None)
            own = Weights(w_ih, w_hh, b_ih, b_hh)
            task = Task(given.cell, x, tuple([s[k] for s in states]), own, lengths, reverse=k > first)
            outcome = eager.run(task)
            outputs.append(outcome.sequences[0])
            finals.append(outcome.finals)
        x = torch.cat(outputs, -1)
    output = x if packing is None else packing.pack(x)
    if packing is None and given.form.batch_first:
        output = output.transpose(0, 1)
    return output, *[torch.stack(column) for column in zip(*finals, strict=True)]

"""What torch.export finds in place of a time loop: one operator for a direction of a layer, whatever the length.

    gatefuse::sequence   a Task to an Outcome, by the driver that auto takes where the exported program runs

A loop, torch's own too, would be unrolled for the number of steps of the example. The operator takes the input and all
weights as they are, so that a translation (to ONNX, for one) has whole layers before it. It is for inference: gradients
are refused. A program that holds it runs where gatefuse is imported and the cell is defined.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import Outcome, Request, Task, Weights, driver
from gatefuse.kernels.plan import choose

NAME = "export"  # as a plan's driver; nobody can ask for it


@torch.library.custom_op("gatefuse::sequence", mutates_args=())
def sequence(
    x: Tensor, states: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None,
    parameters: Tensor, lengths: Tensor | None, resets: Tensor | None, fresh: Tensor | None,
    cell: str, reverse: bool, all_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One direction of one layer.

    Args:
        x: (T, B, I).
        states, fresh: (S, B, H).
        parameters: (P, H).
        lengths, resets, reverse, all_states: as in Task, with the weights.
        cell: the cell's key.

    Returns:
        Output (T, B, H), the other states' sequences (S - 1, T, B, H), empty unless wanted, and finals (S, B, H).
    """
    weights = Weights(w_ih, w_hh, b_ih, b_hh, tuple(parameters.unbind(0)))
    anew = None if fresh is None else tuple(fresh.unbind(0))
    task = Task(Cell.by_key(cell), x, tuple(states.unbind(0)), weights, lengths, resets, anew, reverse, all_states)
    T, B, _ = x.shape
    sizes = T, B, states.shape[2]
    request = Request(task.cell, x.device, x.dtype, *sizes, False, lengths is not None, resets is not None, all_states)
    outcome = driver(choose(request).driver).run(task)
    output, *others = outcome.sequences
    rest = torch.stack(others) if others else x.new_empty(0, *sizes)
    return output.clone(), rest, torch.stack(outcome.finals)


@sequence.register_fake
def _(x, states, w_ih, w_hh, b_ih, b_hh, parameters, lengths, resets, fresh, cell, reverse, all_states):
    S, B, H = states.shape
    sizes = x.shape[0], B, H
    return x.new_empty(sizes), x.new_empty(S - 1 if all_states else 0, *sizes), torch.empty_like(states)


def run(task: Task) -> Outcome:
    """The task as the operator; see Task and Outcome for shapes."""
    weights, x = task.weights, task.x
    H = weights.recurrent.shape[1]
    output, rest, finals = sequence(
        x,
        torch.stack(task.states),
        weights.input,
        weights.recurrent,
        weights.input_bias,
        weights.recurrent_bias,
        torch.stack(weights.parameters) if weights.parameters else x.new_empty(0, H),
        task.lengths,
        task.resets,
        None if task.fresh is None else torch.stack(task.fresh),
        task.cell.key,
        task.reverse,
        task.all_states,
    )
    return Outcome((output, *rest.unbind(0)) if task.all_states else (output,), finals.unbind(0))

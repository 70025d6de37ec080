"""torch.lstm, torch.gru, torch.rnn_tanh and torch.rnn_relu behind one signature."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells.elman import elman, elman_relu
from gatefuse.kernels.cells.gru import gru
from gatefuse.kernels.cells.lstm import lstm
from gatefuse.kernels.drivers.vendor import double_backward
from gatefuse.kernels.task import Form

# Samples up to which a single step of an LSTM pays alone without gradients: at 8 it took 0.6 to 1.0 of the time, at 32
# and H 32 to 256 1.0 to 1.2, and at 512 1.3 to 1.5, by one thread and by two of an AMD EPYC. In training it took 0.2 to
# 1.0 at all sizes.
_ALONE = 8
_GAP = 512  # bytes


def knows(cell: Cell) -> bool:
    """Whether torch has a loop for this very cell; a cell that only shares a name with one is another."""
    return cell is lstm or cell is gru or cell is elman or cell is elman_relu


def call(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    form: Form,
    sizes: Tensor | None = None,
    alone: bool = True,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions.

    Args:
        x: (T, B, I), or (B, T, I) with batch_first; or the rows of a PackedSequence whose batch_sizes are sizes.
        states: (L * D, B, H) each, in the order of packing.
        weights: of each layer and direction in turn, input, recurrent and, with bias, both biases.
        alone: whether a single step may be that of torch.lstm_cell, which rounds in another order.

    Returns:
        The output in the form of x, and the final states in that of states.
    """
    if alone and sizes is None and is_step(cell, x, form.batch_first, states[0].shape[1]):
        return step(x, states, weights, form)
    bias, num_layers, bidirectional, dropout, batch_first = form
    # cuDNN keeps what its backward needs only in training mode; without dropout the mode changes nothing else.
    train = dropout > 0 or torch.is_grad_enabled()
    loop = _loop(cell)
    first = states if cell is lstm else states[0]
    if x.is_cuda:
        weights = together(weights, form.each)
    if sizes is None:
        output, *finals = loop(x, first, weights, bias, num_layers, dropout, train, bidirectional, batch_first)
    else:
        output, *finals = loop(x, sizes, first, weights, bias, num_layers, dropout, train, bidirectional)
    if output.requires_grad and (num_layers == 1 or not dropout):
        given = partial(double_backward.Given, cell, x, states, weights, form, sizes)
        double_backward.differentiable((output, *finals), given)
    return output, tuple(finals)


def is_step(cell: Cell, x: Tensor, batch_first: bool, B: int) -> bool:
    """Whether torch.lstm_cell does it. Autocast on a CPU knows torch.lstm alone, and a trace is for any steps."""
    if cell is not lstm or x.shape[1 if batch_first else 0] != 1 or x.device.type != "cpu":
        return False
    return steps_alone(B) and not torch.is_autocast_enabled("cpu") and not torch.jit.is_tracing()


def steps_alone(B: int) -> bool:
    """Whether torch.lstm_cell is faster than torch.lstm at a single step of B samples, on a CPU.

    There oneDNN lays the weights out anew in each call, which few samples don't pay; the sweep real shows what
    that costs.
    """
    return B <= _ALONE or torch.is_grad_enabled()


def step(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], form: Form
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions of one step, by torch.lstm_cell; arguments and results are those of call."""
    D, each = form.directions, form.each
    finals: list[tuple[Tensor, Tensor]] = []
    now = x[:, 0] if form.batch_first else x[0]
    for k in range(0, len(weights) // each, D):
        if k and form.dropout:
            now = drop(now, form.dropout)
        for d in range(k, k + D):
            finals.append(torch.lstm_cell(now, [s[d] for s in states], *weights[d * each : (d + 1) * each]))
        now = torch.cat([h for h, _ in finals[k:]], 1) if D > 1 else finals[k][0]
    h, c = zip(*finals, strict=True)
    # stacks, which can be changed in place
    return torch.stack([now], 1 if form.batch_first else 0), (torch.stack(h), torch.stack(c))


def together(weights: Sequence[Tensor], each: int) -> Sequence[Tensor]:
    """The weights, ``each`` of a layer's direction, in one block of memory as cuDNN lays them out: biases behind.

    Elsewhere cuDNN copies them itself, with a warning that is of no use where they were cast, computed, or are one
    layer's of a stack's block.
    """
    memory = weights[0].untyped_storage()
    # cuDNN may begin each at a round address
    gaps = memory.nbytes() - sum(w.nbytes for w in weights)
    if gaps < _GAP * len(weights) and all(w.untyped_storage().data_ptr() == memory.data_ptr() for w in weights):
        return weights
    order = sorted(range(len(weights)), key=lambda k: k % each >= 2)
    parts = torch.cat([weights[k].flatten() for k in order]).split([weights[k].numel() for k in order])
    found = dict(zip(order, parts, strict=True))
    return [found[k].view_as(w) for k, w in enumerate(weights)]


def _loop(cell: Cell) -> Any:
    if cell is lstm:
        return torch.lstm
    if cell is gru:
        return torch.gru
    return torch.rnn_tanh if cell is elman else torch.rnn_relu

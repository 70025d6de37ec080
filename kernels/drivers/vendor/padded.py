"""Lengths for torch's own loops without packing: all samples run all steps, and what lies beyond an end is left out.

Packed sequences take other, slower code in the libraries behind torch's loops, and on a GPU the lengths on the host.
The output at a sample's last step is its final state; only an LSTM's cell state is seen nowhere but after the last step
of all. It is held there by a further input feature, one beyond a sample's end and zero within, that closes the input
gate and opens the forget gate: c = 1 * c + 0 * g, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells.lstm import lstm
from gatefuse.kernels.drivers.packing import Packing, moved
from gatefuse.kernels.drivers.padding import finals_given, states_within
from gatefuse.kernels.drivers.vendor import torch_rnn
from gatefuse.kernels.task import Form

# Added to what a sigmoid gets: it is 0 or 1 then in every dtype, unless the weights' own part comes near to this.
_CLOSED = 1e4


def stack(
    cell: Cell, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], lengths: Tensor, form: Form
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions over samples of these lengths.

    Args:
        x: (T, B, I), whatever form says of its order.
        states: (L * D, B, H) each.
        weights: as in torch_loop.call.
        lengths: (B,) integers from 0 to T on x's device.

    Returns:
        The output (T, B, D * H), zero beyond each sample's end, and the final states (L * D, B, H).
    """
    whole, empty = x.shape[0], True
    if x.device.type == "cpu":  # elsewhere it would wait for the device
        least, most = (int(length) for length in lengths.aminmax())
        x, empty = x[: max(1, most)], least == 0 or torch.jit.is_tracing()
    begin = states_within(cell, states, lengths) if empty else states
    over = _over(x.shape[0], lengths)
    # Whatever lies in the padding must not reach a gradient: zero times not-a-number is none.
    x = x.masked_fill(over, 0.0)
    if cell is lstm:
        x = torch.cat([x, over.to(x.dtype)], -1)
    output, finals = _layers(cell, x, begin, weights, lengths.clamp(min=1), form)
    output = output.masked_fill(over, 0.0)
    if whole > x.shape[0]:  # pad copies in any case
        output = pad(output, (0, 0, 0, 0, 0, whole - x.shape[0]))
    return output, finals_given(states, finals, lengths) if empty else finals


def packed(
    cell: Cell, data: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], packing: Packing, form: Form
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As stack, but from packed rows to packed rows, with states in the order of packing."""
    x = packing.unpack_marked(data) if cell is lstm else packing.unpack(data)
    output, finals = _layers(cell, x, states, weights, moved(packing.lengths, data.device), form)
    return packing.pack(output), finals


def _over(T: int, lengths: Tensor) -> Tensor:
    """(T, B, 1): whether a step is beyond a sample's end."""
    return (torch.arange(T, device=lengths.device).unsqueeze(1) >= lengths).unsqueeze(2)


def _layers(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor,
    form: Form,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, which is anything beyond a sample's end, and the final states.

    Args:
        x: (T, B, I), zero beyond each sample's end; of an LSTM with a last feature, 1 there and 0 within.
        lengths: from 1 on.
    """
    T, B = x.shape[:2]
    source = _turned(T, lengths) if form.bidirectional else None
    ends = lengths * B + torch.arange(-B, 0, device=x.device)
    D, each = form.directions, form.each
    n = states[0].shape[0]
    # for the further layers, a constant
    mark = x[..., -1:].detach() if cell is lstm and n > D else None
    finals = []
    for first in range(0, n, D):
        if first:
            x = drop(x, form.dropout) if form.dropout else x
            x = x if mark is None else torch.cat([x, mark], -1)
        outputs = []
        for k in range(first, first + D):
            backwards = source if k > first else None
            output, (_, *cells) = torch_rnn.call(
                cell,
                x if backwards is None else _gather(x, backwards),
                states if n == 1 else [s[k : k + 1] for s in states],
                _holding(cell, weights[k * each : (k + 1) * each]),
                Form(form.bias),
            )
            h = output.flatten(0, 1).index_select(0, ends).unsqueeze(0)
            finals.append((h, *cells))
            outputs.append(output if backwards is None else _gather(output, backwards))
        x = torch.cat(outputs, -1) if D > 1 else outputs[0]
    if len(finals) == 1:
        return x, finals[0]
    return x, tuple([torch.cat(column) for column in zip(*finals, strict=True)])


def _holding(cell: Cell, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of an LSTM, with a column more in those of the input: where that feature is 1, the cell state stays."""
    if cell is not lstm:
        return weights
    w_ih, *others = weights
    H = w_ih.shape[0] // 4
    shut, open_ = w_ih.new_full((H, 1), -_CLOSED), w_ih.new_full((H, 1), _CLOSED)
    column = torch.cat([shut, open_, w_ih.new_zeros(2 * H, 1)])
    return [torch.cat([w_ih, column], 1), *others]


def turn(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """(T, B, N) with each sample reversed within its length; the padding stays where it is."""
    return sequence.flip(0) if lengths is None else _gather(sequence, _turned(len(sequence), lengths))


def _turned(T: int, lengths: Tensor) -> Tensor:
    """(T, B): the step that comes in a step's place."""
    steps = torch.arange(T, device=lengths.device).unsqueeze(1)
    return torch.where(steps < lengths, lengths - 1 - steps, steps)


def _gather(sequence: Tensor, source: Tensor) -> Tensor:
    return sequence.gather(0, source.unsqueeze(2).expand_as(sequence))

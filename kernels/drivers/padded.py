"""Lengths for torch's own loops without packing: all samples run all steps, and what lies beyond an end is left out.

Packed sequences take other, slower code in the libraries behind torch's loops, and on a GPU the lengths on the host.
The output at a sample's last step is its final state; only an LSTM's cell state is seen nowhere but after the last step
of all. It is held there by a further input feature, one beyond a sample's end and zero within, that closes the input
gate and opens the forget gate: c = 1 * c + 0 * g, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad

# Added to what a sigmoid gets: it is 0 or 1 then in every dtype, whatever the weights do.
_CLOSED = 1e4


def stack(
    loop: Callable[..., Any],
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor,
    *,
    num_layers: int,
    directions: int,
    bias: bool,
    dropout: float,
    train: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions of torch.lstm, torch.gru, torch.rnn_tanh or torch.rnn_relu.

    Args:
        loop: one of these.
        x: (T, B, I).
        states: (L * D, B, H) each, two for torch.lstm.
        weights: as in vendor.stack.
        lengths: (B,) integers from 0 to T on x's device.

    Returns:
        The output (T, B, D * H), zero beyond each sample's end, and the final states (L * D, B, H).
    """
    whole, each = x.shape[0], len(weights) // (num_layers * directions)
    if x.device.type == "cpu":  # elsewhere it would wait for the device
        x = x[: max(1, int(lengths.max()))]
    T = x.shape[0]
    over = torch.arange(T, device=x.device)[:, None] >= lengths
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(num_layers):
        if layer and dropout:
            x = drop(x, dropout)
        outputs = []
        for d in range(directions):
            k = layer * directions + d
            own = turn(x, lengths) if d else x
            first = tuple(s[k : k + 1] for s in states)
            output, last = _direction(loop, own, first, weights[k * each : (k + 1) * each], lengths, over, bias, train)
            outputs.append(turn(output, lengths) if d else output)
            finals.append(last)
        x = torch.cat(outputs, -1) if directions > 1 else outputs[0]
    return pad(x, (0, 0, 0, 0, 0, whole - T)), tuple(torch.cat(column) for column in zip(*finals, strict=True))


def _direction(
    loop: Callable[..., Any],
    x: Tensor,
    states: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    lengths: Tensor,
    over: Tensor,
    bias: bool,
    train: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    # Whatever lies in the padding must not reach a gradient: zero times not-a-number is none.
    x = x.masked_fill(over[:, :, None], 0.0)
    if len(states) == 1:
        output, _ = loop(x, states[0], weights, bias, 1, 0.0, train, False, False)
        cells: tuple[Tensor, ...] = ()
    else:
        w_ih, *others = weights
        H = w_ih.shape[0] // 4
        held = torch.cat([w_ih.new_full((H, 1), -_CLOSED), w_ih.new_full((H, 1), _CLOSED), w_ih.new_zeros(2 * H, 1)])
        x = torch.cat([x, over[:, :, None].to(x.dtype)], -1)
        output, _, cell = loop(x, states, [torch.cat([w_ih, held], 1), *others], bias, 1, 0.0, train, False, False)
        cells = (cell,)
    last = (lengths - 1).clamp(min=0)[None, :, None].expand(1, -1, output.shape[2])
    final = torch.where((lengths == 0)[None, :, None], states[0], output.gather(0, last))
    return output.masked_fill(over[:, :, None], 0.0), (final, *cells)


def turn(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """(T, B, N) with each sample reversed within its length; the padding stays where it is."""
    if lengths is None:
        return sequence.flip(0)
    steps = torch.arange(sequence.shape[0], device=sequence.device)[:, None]
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return sequence.gather(0, source[:, :, None].expand_as(sequence))

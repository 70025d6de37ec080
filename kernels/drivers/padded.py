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
from gatefuse.kernels.drivers import torch_loop

# Added to what a sigmoid gets: it is 0 or 1 then in every dtype, whatever the weights do.
_CLOSED = 1e4


def stack(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor,
    *,
    bias: bool,
    num_layers: int,
    bidirectional: bool,
    dropout: float,
    clean: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions.

    Args:
        x: (T, B, I).
        states: (L * D, B, H) each.
        weights: as in torch_loop.call.
        lengths: (B,) integers from 0 to T on x's device.
        clean: no length is 0, x is zero beyond each sample's end, and nobody reads the output there, which may then be
            anything.

    Returns:
        The output (T, B, D * H), zero beyond each sample's end, and the final states (L * D, B, H).
    """
    D = 2 if bidirectional else 1
    whole, each = x.shape[0], len(weights) // (num_layers * D)
    if x.device.type == "cpu":  # elsewhere it would wait for the device
        x = x[: max(1, int(lengths.max()))]
    T = x.shape[0]
    over = torch.arange(T, device=x.device)[:, None] >= lengths
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(num_layers):
        if layer and dropout:
            x = drop(x, dropout)
        outputs = []
        for d in range(D):
            k = layer * D + d
            own = turn(x, lengths) if d else x
            first = tuple(s[k : k + 1] for s in states)
            output, last = _direction(
                cell, own, first, weights[k * each : (k + 1) * each], lengths, over, bias, clean
            )  # fmt: skip
            outputs.append(turn(output, lengths) if d else output)
            finals.append(last)
        x = torch.cat(outputs, -1) if D > 1 else outputs[0]
    if whole > T:  # pad copies in any case
        x = pad(x, (0, 0, 0, 0, 0, whole - T))
    return x, tuple(torch.cat(column) for column in zip(*finals, strict=True))


def _direction(
    cell: Cell,
    x: Tensor,
    states: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    lengths: Tensor,
    over: Tensor,
    bias: bool,
    clean: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    # Whatever lies in the padding must not reach a gradient: zero times not-a-number is none.
    if not clean:
        x = x.masked_fill(over[:, :, None], 0.0)
    if cell is lstm:
        w_ih, *others = weights
        H = w_ih.shape[0] // 4
        held = torch.cat([w_ih.new_full((H, 1), -_CLOSED), w_ih.new_full((H, 1), _CLOSED), w_ih.new_zeros(2 * H, 1)])
        x = torch.cat([x, over[:, :, None].to(x.dtype)], -1)
        weights = [torch.cat([w_ih, held], 1), *others]
    output, (_, *cells) = torch_loop.call(cell, x, states, weights, bias=bias)
    B = output.shape[1]
    ends = lengths - 1 if clean else (lengths - 1).clamp(min=0)
    final = output.flatten(0, 1).index_select(0, ends * B + torch.arange(B, device=x.device)).unsqueeze(0)
    if clean:
        return output, (final, *cells)
    final = torch.where((lengths == 0)[None, :, None], states[0], final)
    return output.masked_fill(over[:, :, None], 0.0), (final, *cells)


def turn(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """(T, B, N) with each sample reversed within its length; the padding stays where it is."""
    if lengths is None:
        return sequence.flip(0)
    steps = torch.arange(sequence.shape[0], device=sequence.device)[:, None]
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return sequence.gather(0, source[:, :, None].expand_as(sequence))

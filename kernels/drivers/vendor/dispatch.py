"""The choice among torch's functions for a stack of layers: as a step, whole, padded or packed.

Lengths go through packed sequences only where padding costs more (see padded.py). Packed ones know no empty sequence;
such a one runs a step, and its results are replaced by what the contract says: output zero, final states the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells.elman import elman
from gatefuse.kernels.cells.gru import gru
from gatefuse.kernels.cells.lstm import lstm
from gatefuse.kernels.drivers.packing import Packing, moved, reorder
from gatefuse.kernels.drivers.padding import finals_given, states_within
from gatefuse.kernels.drivers.vendor import padded, torch_rnn
from gatefuse.kernels.drivers.vendor.torch_rnn import knows
from gatefuse.kernels.task import Form

# The part of the longest sample's steps that samples must have for padding to pay, on two cores of an AMD EPYC.
# Of an LSTM by oneDNN, where it pays from a part on that rises with B * H up to a limit. Forward it won by 1.2 to 1.4
# times at 0.25 of 2048, 0.54 of 4096 and 0.6 of 8192, and lost by as much at 0.1, 0.25 and 0.25; at 16,384 and
# 32,768 it lost at all parts up to 0.57. In training it won by 1.3 times at 0.1 of 4096 and 0.4 of 8192, and lost by
# 1.2 times at 0.1 of 8192 and at 0.57 of 16,384 and 32,768.
_FORWARD, _FORWARD_RISE, _FORWARD_MOST = 0.15, 1 / 30_000, 0.65
_TRAINING_RISE, _TRAINING_MOST = 1 / 25_000, 0.7
# Steps from which on the rows of a PackedSequence are worth being unpacked. Forward that lost by 1.2 times at 10 and
# won by as much at 20; in training it won by 1.3 times at 8 of H 64, and lost by 1.1 at 16 of H 256, since oneDNN lays
# the weights out anew in each call.
_FEWEST, _FEWEST_TRAINED, _H_A_STEP = 20, 10, 12
# Of the other cells in training: at 0.75, B * H 1024, padding won by 1.2 times, and at 8192 it lost by 1.07.
_FULLER, _SMALL = 0.7, 2048


def stack(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    form: Form,
    lengths: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions in one call, which lets the library behind it overlap them.

    Args:
        x: (T, B, I), or (B, T, I) with batch_first.
        states: (L * D, B, H) each, with L layers and D directions.
        weights: of each layer and direction in turn, input, recurrent and, with bias, both biases.
        lengths: (B,) integers on any device, or None; for an LSTM on a GPU they are needed on the host, which waits.

    Returns:
        The output (T, B, D * H), or (B, T, D * H), and the final states (L * D, B, H): none is a view of an argument.
    """
    if x.numel() == 0:
        return _nothing(x, states, weights, form.directions)
    if lengths is None:
        return torch_rnn.call(cell, x, states, weights, form)
    B, T = x.shape[:2] if form.batch_first else x.shape[1::-1]
    full = None
    if x.device.type == lengths.device.type == "cpu":  # on a GPU one would wait to know
        values = lengths.tolist()
        if min(values) == T:
            return torch_rnn.call(cell, x, states, weights, form)
        full = sum(values) / max(1, max(values) * B)

    x = x.transpose(0, 1) if form.batch_first else x
    ordered = form._replace(batch_first=False)
    # On a GPU packing waits for the lengths; but cuDNN wants an LSTM's weights as they lie, and padding adds a column.
    if cell is not lstm if full is None else _pad(cell, x.dtype, full, B * states[0].shape[2]):
        output, finals = padded.stack(cell, x, states, weights, moved(lengths, x.device), ordered)
    else:
        output, finals = _packing(cell, x, states, weights, lengths.cpu(), ordered)
    return output.transpose(0, 1) if form.batch_first else output, finals


def packed(
    cell: Cell, data: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], form: Form, packing: Packing
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As stack, but from the rows of a PackedSequence to such rows, with states in the order of packing."""
    form = form._replace(batch_first=False)
    if packing.rows is None:
        output, finals = torch_rnn.call(cell, packing.unpack(data), states, weights, form)
        return packing.pack(output), finals
    if unpacks(cell, data, packing.sizes, states[0].shape[2]):
        return padded.packed(cell, data, states, weights, packing, form)
    return torch_rnn.call(cell, data, states, weights, form, packing.sizes)


def unpacks(cell: Cell, data: Tensor, sizes: Tensor, H: int) -> bool:
    """Whether the rows of a PackedSequence of these batch_sizes are better unpacked."""
    if data.device.type != "cpu" or data.dim() != 2:
        return False
    T, B, N = sizes.shape[0], int(sizes[0]), data.shape[0]
    if T * B == N:  # torch's LSTM takes it as if it were not packed; the others, in training, 1.3 times as long
        return T >= _FEWEST and torch.is_grad_enabled() and cell is not lstm
    fewest = max(_FEWEST_TRAINED, H / _H_A_STEP) if torch.is_grad_enabled() else _FEWEST
    return fewest <= T and _pad(cell, data.dtype, N / (T * B), B * H)


def _pad(cell: Cell, dtype: torch.dtype, full: float, size: int) -> bool:
    """Whether samples run as many steps as the longest, rather than packed, on a CPU.

    oneDNN runs LSTMs unless they are packed, or in a dtype that it lacks, and torch's slower native loop runs all
    others, whose backward takes packed sequences apart step by step.

    Args:
        full: the part of the longest sample's steps that samples have.
        size: B * H.
    """
    training = torch.is_grad_enabled()
    if cell is lstm and torch.backends.mkldnn.enabled and onednn_has(dtype):
        if training:
            return full >= min(_TRAINING_MOST, size * _TRAINING_RISE)
        return full >= min(_FORWARD_MOST, _FORWARD + size * _FORWARD_RISE)
    return training and full >= _FULLER and size <= _SMALL


@cache
def onednn_has(dtype: torch.dtype) -> bool:
    """Whether, here, oneDNN runs LSTMs in that dtype."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packing(
    cell: Cell, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], lengths: Tensor, form: Form
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """By way of a PackedSequence, for padded x (T, B, I) and lengths on the CPU."""
    falling, order = lengths.clamp(min=1).sort(descending=True, stable=True)
    sizes = (torch.arange(int(falling[0]), device=falling.device)[:, None] < falling).sum(1)
    back = order.argsort().to(x.device)
    order = order.to(x.device)
    packing = Packing.of(sizes, x.device, order)
    some, begin = int(lengths.min()) > 0, states
    if not some:
        lengths = lengths.to(x.device)
        empty = (lengths == 0)[:, None]
        x, begin = x.masked_fill(empty, 0.0), states_within(cell, states, lengths)
    data, last = torch_rnn.call(cell, packing.pack(x), reorder(begin, order), weights, form, sizes)
    output, finals = packing.unpack(data, x.shape[0]), reorder(last, back)
    return (output, finals) if some else (output.masked_fill(empty, 0.0), finals_given(states, finals, lengths))


def flatten(cell: Cell, weights: Sequence[Tensor], form: Form, input_size: int, hidden_size: int) -> None:
    """Lay the weights of a whole stack out in one block of memory, as cuDNN wants them; a no-op elsewhere.

    Without it cuDNN copies them in every call and torch warns.
    """
    first = weights[0]
    if not knows(cell) or not first.is_cuda or not torch._use_cudnn_rnn_flatten_weight():
        return
    if any(w.dtype != first.dtype or not torch.backends.cudnn.is_acceptable(w) for w in weights):
        return
    if len({w.data_ptr() for w in weights}) < len(weights):  # shared weights can't lie in two places
        return
    import torch.backends.cudnn.rnn as cudnn

    mode = "LSTM" if cell is lstm else "GRU" if cell is gru else "RNN_TANH" if cell is elman else "RNN_RELU"
    with torch.cuda.device_of(first), torch.no_grad():
        torch._cudnn_rnn_flatten_weight(
            list(weights),
            form.each,
            input_size,
            cudnn.get_cudnn_mode(mode),
            hidden_size,
            0,
            form.num_layers,
            form.batch_first,
            form.bidirectional,
        )


def _nothing(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], D: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """No step or no sample, which torch's loops refuse in part: an empty output, and the states as they came."""
    output = x.new_empty(*x.shape[:2], D * states[0].shape[-1])
    # Zero, so that backward finds its way to zeros, as it does for any other shape.
    anchor = sum(tensor.sum() for tensor in (x, *weights)) * 0
    empty = states[0].numel() == 0
    return output + anchor, tuple(state + anchor if empty else state.clone() for state in states)

"""Other people's recurrent kernels, measured where they are installed: FlashRNN, Haste, TorchRL's and FlagGems' Triton
kernels.

Each takes its weights from the source, in its own layout; each has one layer and one direction. The layouts were read
off flashrnn/flashrnn/vanilla (FlashRNN 1.0.5), frameworks/pytorch (Haste 0.5) and
modules/tensordict_module/_rnn_triton.py (TorchRL 0.13); FlagGems' operators have the arguments of ATen's. The kernels
themselves have not run here yet; one that computes something else than the oracle gets a row that says so.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gatefuse.bench.suite import compiled_step
from gatefuse.bench.suite.contender import BATCH_FIRST, Network
from gatefuse.bench.suite.sweeps import Group
from gatefuse.kernels.runtime.settings import tf32_allowed

# What FlashRNN has of gatefuse's cells and dtypes.
FLASHRNN = ("lstm", "gru", "elman", "slstm")
FLOATS = ("float32", "float16", "bfloat16")
_TRITON = "torchrl.modules.tensordict_module._rnn_triton"


def missing(module: str) -> Callable[[Group, torch.device], str]:
    """A refusal: why a module's kernels can't run on a device, "" if they may."""

    def why(group: Group, device: torch.device) -> str:
        if find_spec(module) is None:
            return f"{module} is not installed"
        return "" if device.type == "cuda" else "its kernels need a GPU"

    return why


def flashrnn_refusal(group: Group, device: torch.device) -> str:
    """FlashRNN's: as missing; it compiles for each H, B, dtype and mode, for which a short sweep has no time."""
    return missing("flashrnn")(group, device) or compiled_step.no_time(group, device)


def flaggems_refusal(group: Group, device: torch.device) -> str:
    """FlagGems': as missing; not every version of it has the cell's operator."""
    if why := missing("flag_gems")(group, device):
        return why
    cell = group.shape.cell
    return "" if hasattr(import_module("flag_gems.ops"), cell) else f"the flag_gems that is installed has no {cell}"


def _leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().clone().contiguous().requires_grad_() for t in tensors)


def flashrnn(group: Group, source: nn.Module) -> Network:
    """A network of FlashRNN's CUDA kernels with one head; the input product is torch's.

    Its weights are (G, heads, H out, H in) and its gates the source's, i f z o in an LSTM and an sLSTM. Its biases are
    one sum by gate; but of a GRU's, that of the candidate's recurrent product comes first and that of its input part
    last, and so does the candidate among the recurrent gates.
    """
    run = import_module("flashrnn").flashrnn
    cell, H = group.shape.cell, group.shape.H
    w_ih, w_hh, b_ih, b_hh = source.parameters()
    R, bias = w_hh.view(-1, 1, H, H), (b_ih + b_hh).view(-1, 1, H)
    if cell == "gru":
        R = R.roll(1, 0)  # r, z, n -> n, r, z
        bias = torch.cat([b_hh.view(3, 1, H)[2:], bias[:2], b_ih.view(3, 1, H)[2:]])
    weights = _leaves(w_ih, R, bias)

    def forward(x: Tensor) -> Tensor:
        Wx = linear(x, weights[0]).view(*x.shape[:2], -1, 1, H)
        states, _ = run(Wx, weights[1], weights[2], function=cell, backend="cuda_fused", dtype=group.dtype)
        return states[0].squeeze(2)  # (states, B, T, heads, H), of which the first state is the output

    return Network(forward, weights, BATCH_FIRST)


def haste(group: Group, source: nn.Module) -> Network:
    """A network of Haste's layers, which convert torch.nn's weights themselves."""
    module = import_module("haste_pytorch")
    kind = module.LSTM if group.shape.cell == "lstm" else module.GRU
    layer = kind(group.shape.I, group.shape.H)
    layer.from_native_weights(*(p.detach() for p in source.parameters()))
    like = next(source.parameters())
    # Its backward works in training mode alone; without dropout and zoneout both modes compute the same.
    layer = layer.to(device=like.device, dtype=like.dtype).train(group.mode == "training")
    return Network(lambda x: layer(x)[0], tuple(layer.parameters()))


def torchrl(group: Group, source: nn.Module) -> Network:
    """A network of TorchRL's Triton kernels, told that nothing is reset; they take torch.nn's weights as they are."""
    module = import_module(_TRITON)
    weights = _leaves(*source.parameters())
    s, like = group.shape, weights[0]
    states = [like.new_zeros(s.B, s.T, s.H) for _ in range(2 if s.cell == "lstm" else 1)]
    resets = torch.zeros(s.B, s.T, dtype=torch.bool, device=like.device)
    run = module.lstm_triton if s.cell == "lstm" else module.gru_triton
    precision = "tf32" if tf32_allowed() else "ieee"
    return Network(lambda x: run(x, *states, *weights, resets, input_precision=precision)[0], weights, BATCH_FIRST)


def flaggems(group: Group, source: nn.Module) -> Network:
    """A network of FlagGems' operator of ATen's name and arguments: input, first states, weights as torch.nn has them,
    whether there are biases, layers, dropout, training, both directions, batch first."""
    cell, shape = group.shape.cell, group.shape
    run = getattr(import_module("flag_gems.ops"), cell)
    weights = _leaves(*source.parameters())
    h = weights[0].new_zeros(1, shape.B, shape.H)
    first = [h, h.clone()] if cell == "lstm" else h
    training = group.mode == "training"
    return Network(lambda x: run(x, first, list(weights), True, 1, 0.0, training, False, False)[0], weights)

"""Compile and record what a layer's calls need before the first of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gatefuse.kernels.plan import Plan
from gatefuse.models.layers.arguments import path_of
from gatefuse.models.layers.base import Stack
from gatefuse.models.layers.recurrent import Recurrent
from gatefuse.models.layers.rnn import GRU, LSTM, RNN

# A shape's kernels are recorded when it comes the second time, and chosen by measured speed by some libraries.
_TIMES = 3


def warmup(
    layer: Recurrent | LSTM | GRU | RNN,
    T: int,
    B: int,
    *,
    backward: bool | None = None,
    lengths: bool = False,
    resets: bool = False,
    all_states: bool = False,
) -> Plan:
    """Run a layer on zeros, so that the first real call of that kind waits for no compiler.

    Kernels are compiled for a cell, its size, its dtype and the options; most serve every T and B, but tiles depend on
    B, and step's recordings on B and on T's being long enough. Parameters, their gradients, and the generators of
    random numbers stay as they are. Call it under the autocast that calls will run under.

    Args:
        layer: a Recurrent, LSTM, GRU or RNN of gatefuse's, on its device.
        T: steps of the calls to come.
        B: samples.
        backward: whether gradients will be wanted; by default where grad mode is on and a parameter wants one.
        lengths: whether calls will have lengths.
        resets: whether they will have resets.
        all_states: whether they will ask for sequences of all states.

    Returns:
        The plan of such a call; ``print`` it.

    Raises:
        TypeError: layer is no layer of gatefuse's.
        ValueError: T or B is less than 1.
    """
    if not isinstance(layer, Stack):
        raise TypeError(f"layer must be a layer of gatefuse's, such as Recurrent. Got {path_of(type(layer))}.")
    for name, size in (("T", T), ("B", B)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1. Got {size}.")
    like = layer._flat()[0].detach()
    assert isinstance(layer, nn.Module)
    wanted = [p for p in layer.parameters() if p.requires_grad]
    if backward is None:
        backward = torch.is_grad_enabled() and bool(wanted)
    x = like.new_zeros((B, T, layer.input_size) if layer.batch_first else (T, B, layer.input_size))
    # Where all weights are frozen, the input has the gradient that makes a backward.
    x.requires_grad_(backward)
    steps = {name: like.new_ones(x.shape[:2]) for name in layer.cell.inputs}
    options: dict[str, Any] = {
        **({"inputs": steps} if steps else {}),
        "lengths": torch.full((B,), T, device=like.device) if lengths else None,
        "resets": torch.zeros(x.shape[:2], dtype=torch.bool, device=like.device) if resets else None,
        "all_states": all_states,
    }
    devices = [like.device] if like.is_cuda else []
    with torch.random.fork_rng(devices), torch.set_grad_enabled(backward):
        for _ in range(_TIMES):
            found = layer.forward(x, **options)
            if backward:
                results = [v for v in _tensors(found) if v.requires_grad]
                torch.autograd.grad(results, [x, *wanted], [torch.zeros_like(v) for v in results], allow_unused=True)
        return layer.plan(x, **options)


def _tensors(found: object) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    assert isinstance(found, tuple)
    return [tensor for part in found for tensor in _tensors(part)]

"""The networks of a group: the source of all weights, the judge, and gatefuse's and torch's layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatefuse
from gatefuse.bench.suite.contender import BATCH_FIRST, TIME_FIRST, Layout, Network, inputs
from gatefuse.bench.suite.sweeps import Group
from gatefuse.models.convert import load_layer_state
from gatefuse.models.layers.base import Stack

Build = Callable[[Group, nn.Module], Network]

# torch's layers by the name of a cell, and gatefuse's of the same interface.
TORCH: dict[str, Callable[..., nn.Module]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "elman": partial(nn.RNN, nonlinearity="tanh"),
    "elman_relu": partial(nn.RNN, nonlinearity="relu"),
}
_DROP_IN: dict[str, Callable[..., nn.Module]] = {
    "lstm": gatefuse.LSTM,
    "gru": gatefuse.GRU,
    "elman": partial(gatefuse.RNN, nonlinearity="tanh"),
    "elman_relu": partial(gatefuse.RNN, nonlinearity="relu"),
}


def make_source(group: Group, device: torch.device) -> nn.Module:
    """The layer that holds a group's weights: the same numbers for the same group, drawn as torch.nn draws them."""
    torch.manual_seed(0)
    return _recurrent("eager", group).to(device=device, dtype=getattr(torch, group.dtype))


def make_oracle(group: Group, source: nn.Module) -> Network:
    """The judge, in float64: torch.nn where it has the cell, the plain loop over the equations otherwise."""
    network = (
        _stack(TORCH, group) if group.shape.cell in TORCH and group.shape.heads == 1 else _recurrent("eager", group)
    )
    return _copy(group, network, source, torch.float64)


def by_driver(name: str) -> Build:
    """gatefuse's layer, by one of its drivers."""
    return lambda group, source: _copy(group, _recurrent(name, group), source)


def auto(group: Group, source: nn.Module) -> Network:
    """gatefuse's layer as people import it, which picks a driver by itself."""
    return _copy(group, _imported(group), source)


def stepper(group: Group, source: nn.Module) -> Network:
    """The same layer one step at a time, on weights that were laid out before and states that it holds."""
    layer = _load(_imported(group), source)
    assert isinstance(layer, Stack)
    steps = gatefuse.Stepper(layer, group.shape.B)
    given = {name: a[0] for name, a in inputs(group, next(source.parameters())).items()} or None

    def forward(x: Tensor) -> Tensor:
        return steps.step(x[0], given).unsqueeze(0)

    return Network(forward, tuple(layer.parameters()))


def one_step(group: Group, device: torch.device) -> str:
    """Why it is no stepper's, in words: others than of one step."""
    if group.mode != "forward":
        return "nothing is differentiated"
    if group.shape.T > 1:
        return "it is for one step at a time"
    return "it is for one direction" if group.shape.bidirectional else ""


def packed(group: Group, source: nn.Module) -> Network:
    """The same layer on sequences that are packed beforehand, and stay so."""
    network = _load(_imported(group), source)
    given = {"inputs": found} if (found := inputs(group, next(network.parameters()))) else {}
    lengths = torch.tensor(group.shape.lengths)

    def there(padded: Tensor) -> Tensor:
        return pack_padded_sequence(padded, lengths, enforce_sorted=False).data

    def forward(rows: Tensor) -> Tensor:
        return network(form._replace(data=rows), **given)[0].data

    def back(rows: Tensor) -> Tensor:
        return pad_packed_sequence(form._replace(data=rows), total_length=group.shape.T)[0]

    form = pack_padded_sequence(
        next(source.parameters()).new_empty(group.shape.T, len(lengths), 1), lengths, enforce_sorted=False
    )
    return Network(forward, tuple(network.parameters()), Layout(there, back))


def torch_layer(group: Group, source: nn.Module) -> Network:
    """torch's layer; where samples have lengths, on packed sequences."""
    return _copy(group, _stack(TORCH, group), source)


def torch_padded(group: Group, source: nn.Module) -> Network:
    """torch's layer over what lies beyond a sample's end too, where its output is then made zero."""
    whole = replace(group, shape=replace(group.shape, fill=1.0, ragged=False))
    network = torch_layer(whole, source)
    s, device = group.shape, network.parameters[0].device
    live = torch.arange(s.T, device=device)[:, None] < torch.tensor(s.lengths, device=device)
    return replace(network, forward=lambda x: torch.where(live[:, :, None], network.forward(x), 0.0))


def scratch(kind: Callable[..., Any], batch_first: bool) -> Build:
    """A network written by hand, of models/scratch.py."""

    def build(group: Group, source: nn.Module) -> Network:
        like = next(source.parameters())
        network = kind(group.shape.I, group.shape.H, device=like.device, dtype=like.dtype)
        load_layer_state(network, source.state_dict())
        return _network(network, batch_first)

    return build


def _recurrent(driver: str, group: Group) -> nn.Module:
    s = group.shape
    return gatefuse.Recurrent(
        s.cell, s.I, s.H, num_layers=s.layers, bidirectional=s.bidirectional, heads=s.heads, driver=driver
    )


def _imported(group: Group) -> nn.Module:
    plain = group.shape.cell in _DROP_IN and group.shape.heads == 1
    return _stack(_DROP_IN, group) if plain else _recurrent("auto", group)


def _stack(kinds: dict[str, Callable[..., nn.Module]], group: Group) -> nn.Module:
    s = group.shape
    return kinds[s.cell](s.I, s.H, num_layers=s.layers, bidirectional=s.bidirectional)


def _copy(group: Group, network: nn.Module, source: nn.Module, dtype: torch.dtype | None = None) -> Network:
    """A layer with the source's weights. One of gatefuse's gets lengths on its device, torch's gets packed sequences,
    which want them on the host."""
    network = _load(network, source, dtype)
    given = {"inputs": found} if (found := inputs(group, next(network.parameters()))) else {}
    if not group.shape.lengths:
        return Network(lambda x: network(x, **given)[0], tuple(network.parameters()))
    lengths = torch.tensor(group.shape.lengths)
    if isinstance(network, Stack):
        lengths = lengths.to(next(source.parameters()).device)
        return Network(lambda x: network(x, lengths=lengths, **given)[0], tuple(network.parameters()))

    def packed(x: Tensor) -> Tensor:
        output, _ = network(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(output, total_length=x.shape[0])[0]

    return Network(packed, tuple(network.parameters()))


def _load(network: nn.Module, source: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    like = next(source.parameters())
    network = network.to(device=like.device, dtype=dtype or like.dtype)
    network.load_state_dict(source.state_dict())
    return network


def _network(network: nn.Module, batch_first: bool = False) -> Network:
    return Network(lambda x: network(x)[0], tuple(network.parameters()), BATCH_FIRST if batch_first else TIME_FIRST)

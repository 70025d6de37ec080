"""Who is measured, as data. All contenders of a group get their weights from one source, a gatefuse layer.

A new contender is one entry of CONTENDERS: how it is built, for which cells, and what it can't do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatefuse
from gatefuse.bench import compiled, optional
from gatefuse.bench.sweeps import Group
from gatefuse.kernels import drivers, plan
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.ops import LOOPS
from gatefuse.models.convert import load_layer_state
from gatefuse.models.scratch import D2LGRU, FusedLSTM, NaiveLSTM
from gatefuse.models.stack import Stack

# The plain loop that a cell's speed-up is over; other cells, and networks deeper than these, take gatefuse's eager.
BASELINES = {
    "lstm": "scratch 2 products",
    "gru_reset_first": "scratch d2l GRU",
    "article_peephole_lstm": "scratch article",
}
EAGER = "gatefuse eager"

_TORCH: dict[str, Callable[..., nn.Module]] = {
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


@dataclass(frozen=True)
class Network:
    """A built contender.

    Attributes:
        forward: x -> the output of every step; both (T, B, ·), or both (B, T, ·) if batch_first.
        parameters: what training differentiates besides x.
    """

    forward: Callable[[Tensor], Tensor]
    parameters: tuple[Tensor, ...]
    batch_first: bool = False


@dataclass(frozen=True)
class Contender:
    """Somebody to measure.

    Attributes:
        build: (group, source) -> Network with the source's weights, in its dtype, on its device.
        cells: those it is measured for; None for all.
        driver: a gatefuse driver's name, or auto; "" for others.
        deep: it can stack layers and run both directions.
        dtypes, modes: those that it can do; None for all.
        ragged: it can be told the samples' lengths; one_way: it can then run one direction alone.
        only_ragged: it is measured where the network is told lengths, and nowhere else.
        optional: somebody else's package: what it raises is a reason to leave it out, and no failure of the benchmark.
        why: further reasons why it can't run a group on a device, in words.
    """

    name: str
    build: Callable[[Group, nn.Module], Network]
    cells: tuple[str, ...] | None = None
    driver: str = ""
    deep: bool = True
    dtypes: tuple[str, ...] | None = None
    modes: tuple[str, ...] | None = None
    ragged: bool = True
    one_way: bool = False
    only_ragged: bool = False
    optional: bool = False
    why: Callable[[Group, torch.device], str] = lambda group, device: ""

    def refusal(self, group: Group, device: torch.device) -> str:
        """Why it can't run that, in words; "" where it can."""
        s = group.shape
        if not self.deep and (s.layers > 1 or s.bidirectional):
            return "written for one layer and one direction"
        if self.dtypes and group.dtype not in self.dtypes:
            return f"it has no {group.dtype}"
        if self.modes and group.mode not in self.modes:
            return f"it has no {group.mode}"
        if s.lengths and not self.ragged:
            return "it can't be told the samples' lengths"
        if s.lengths and self.one_way and s.bidirectional:
            return "backwards it would begin in what lies beyond a sample's end"
        if why := self.why(group, device):
            return why
        if self.driver in LOOPS and device.type == "cpu":
            return "needs a GPU; on a CPU its kernels run in Triton's interpreter, which is for tests"
        if self.driver and self.driver != "auto":
            return drivers.driver(self.driver).refusal(_request(group, device))
        return ""

    def ran(self, group: Group, device: torch.device) -> str:
        """The gatefuse driver that runs the group, "" for others."""
        return plan.choose(_request(group, device), self.driver).driver if self.driver else ""


def make_source(group: Group, device: torch.device) -> nn.Module:
    """The layer that holds a group's weights: the same numbers for the same group, drawn as torch.nn draws them."""
    torch.manual_seed(0)
    return _recurrent("eager", group).to(device=device, dtype=getattr(torch, group.dtype))


def make_oracle(group: Group, source: nn.Module) -> Network:
    """The judge, in float64: torch.nn where it has the cell, the plain loop over the equations otherwise."""
    if group.shape.cell in _TORCH:
        return _copy(group, _stack(_TORCH, group), source, torch.float64)
    return _copy(group, _recurrent("eager", group), source, torch.float64)


def contenders(group: Group) -> list[Contender]:
    """Those that are measured for a group's cell, whether or not they can run its shape."""
    found = [c for c in CONTENDERS if c.cells is None or group.shape.cell in c.cells]
    return [c for c in found if group.shape.lengths or not c.only_ragged]


def baseline(group: Group, device: torch.device) -> str:
    """The contender that the group's speed-ups are over."""
    name = BASELINES.get(group.shape.cell, EAGER)
    found = next(c for c in CONTENDERS if c.name == name)
    return EAGER if found.refusal(group, device) else name


def _request(group: Group, device: torch.device) -> drivers.Request:
    s = group.shape
    return drivers.Request(
        find_cell(s.cell),
        device,
        getattr(torch, group.dtype),
        T=s.T,
        B=s.B,
        H=s.H,
        needs_grad=group.mode == "training",
        lengths=bool(s.lengths),
    )


def _recurrent(driver: str, group: Group) -> nn.Module:
    s = group.shape
    return gatefuse.Recurrent(s.cell, s.I, s.H, num_layers=s.layers, bidirectional=s.bidirectional, driver=driver)


def _stack(kinds: dict[str, Callable[..., nn.Module]], group: Group) -> nn.Module:
    s = group.shape
    return kinds[s.cell](s.I, s.H, num_layers=s.layers, bidirectional=s.bidirectional)


def _copy(group: Group, network: nn.Module, source: nn.Module, dtype: torch.dtype | None = None) -> Network:
    """A layer with the source's weights. One of gatefuse's gets lengths on its device, torch's gets packed sequences,
    which want them on the host."""
    like = next(source.parameters())
    network = network.to(device=like.device, dtype=dtype or like.dtype)
    network.load_state_dict(source.state_dict())
    if not group.shape.lengths:
        return _network(network)
    lengths = torch.tensor(group.shape.lengths)
    if isinstance(network, Stack):
        lengths = lengths.to(like.device)
        return Network(lambda x: network(x, lengths=lengths)[0], tuple(network.parameters()))

    def packed(x: Tensor) -> Tensor:
        output, _ = network(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return pad_packed_sequence(output, total_length=x.shape[0])[0]

    return Network(packed, tuple(network.parameters()))


def _network(network: nn.Module, batch_first: bool = False) -> Network:
    return Network(lambda x: network(x)[0], tuple(network.parameters()), batch_first)


def _gatefuse(driver: str) -> Callable[[Group, nn.Module], Network]:
    return lambda group, source: _copy(group, _recurrent(driver, group), source)


def _auto(group: Group, source: nn.Module) -> Network:
    if group.shape.cell in _DROP_IN:
        return _copy(group, _stack(_DROP_IN, group), source)
    return _copy(group, _recurrent("auto", group), source)


def _torch(group: Group, source: nn.Module) -> Network:
    return _copy(group, _stack(_TORCH, group), source)


def _torch_padded(group: Group, source: nn.Module) -> Network:
    """Runs over what lies beyond a sample's end too, and makes the output zero there."""
    whole = replace(group, shape=replace(group.shape, fill=1.0, ragged=False))
    network = _copy(whole, _stack(_TORCH, group), source)
    s, device = group.shape, network.parameters[0].device
    live = torch.arange(s.T, device=device)[:, None] < torch.tensor(s.lengths, device=device)
    return replace(network, forward=lambda x: torch.where(live[:, :, None], network.forward(x), 0.0))


def _scratch(kind: Callable[..., Any], batch_first: bool) -> Callable[[Group, nn.Module], Network]:
    def build(group: Group, source: nn.Module) -> Network:
        like = next(source.parameters())
        network = kind(group.shape.I, group.shape.H, device=like.device, dtype=like.dtype)
        load_layer_state(network, source.state_dict())
        return _network(network, batch_first)

    return build


def _compiled(group: Group, source: nn.Module) -> Network:
    return Network(*compiled.forward(group, source))


def _optional(
    name: str,
    build: Callable[[Group, nn.Module], optional.Built],
    module: str,
    cells: tuple[str, ...],
    dtypes: tuple[str, ...],
    batch_first: bool = False,
) -> Contender:
    def network(group: Group, source: nn.Module) -> Network:
        forward, parameters = build(group, source)
        return Network(forward, tuple(parameters), batch_first)

    why = optional.missing(module)
    return Contender(name, network, cells, deep=False, dtypes=dtypes, ragged=False, optional=True, why=why)


HALVES = ("float16", "bfloat16")
CONTENDERS = (
    Contender("scratch 8 products", _scratch(NaiveLSTM, batch_first=True), ("lstm",), deep=False, ragged=False),
    Contender("scratch 2 products", _scratch(FusedLSTM, batch_first=True), ("lstm",), deep=False, ragged=False),
    Contender(
        "scratch article",
        _scratch(partial(FusedLSTM, peephole=True), batch_first=True),
        ("article_peephole_lstm",),
        deep=False,
        ragged=False,
    ),
    Contender("scratch d2l GRU", _scratch(D2LGRU, batch_first=False), ("gru_reset_first",), deep=False, ragged=False),
    *(Contender(f"gatefuse {name}", _gatefuse(name), driver=name) for name in drivers.DRIVERS),
    Contender("gatefuse auto", _auto, driver="auto"),
    Contender("torch.compile step", _compiled, deep=False, ragged=False, why=compiled.refusal),
    _optional("FlashRNN", optional.flashrnn, "flashrnn", ("lstm", "gru", "elman"), HALVES, batch_first=True),
    _optional("Haste", optional.haste, "haste_pytorch", ("lstm", "gru"), ("float32",)),
    _optional("TorchRL", optional.torchrl, "torchrl", ("lstm", "gru"), ("float32",), batch_first=True),
    Contender("torch.nn", _torch, tuple(_TORCH)),
    Contender("torch.nn padded", _torch_padded, tuple(_TORCH), one_way=True, only_ragged=True),
)

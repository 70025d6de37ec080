"""Who is measured, as data. All contenders of a group get their weights from one source, a gatefuse layer.

A new contender is one entry of CONTENDERS: how it is built, for which cells, and what it can't do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import gatefuse
from gatefuse.bench.sweeps import Group
from gatefuse.kernels import drivers, plan
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.ops import LOOPS
from gatefuse.models.convert import load_layer_state
from gatefuse.models.scratch import D2LGRU, FusedLSTM, NaiveLSTM

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
    """

    name: str
    build: Callable[[Group, nn.Module], Network]
    cells: tuple[str, ...] | None = None
    driver: str = ""
    deep: bool = True

    def refusal(self, group: Group, device: torch.device) -> str:
        """Why it can't run that, in words; "" where it can."""
        s = group.shape
        if not self.deep and (s.layers > 1 or s.bidirectional):
            return "written for one layer and one direction"
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
        return _copy(_stack(_TORCH, group), source, torch.float64)
    return _copy(_recurrent("eager", group), source, torch.float64)


def contenders(group: Group) -> list[Contender]:
    """Those that are measured for a group's cell, whether or not they can run its shape."""
    return [c for c in CONTENDERS if c.cells is None or group.shape.cell in c.cells]


def baseline(group: Group, device: torch.device) -> str:
    """The contender that the group's speed-ups are over."""
    name = BASELINES.get(group.shape.cell, EAGER)
    found = next(c for c in CONTENDERS if c.name == name)
    return EAGER if found.refusal(group, device) else name


def _request(group: Group, device: torch.device) -> drivers.Request:
    s = group.shape
    return drivers.Request(
        find_cell(s.cell), device, getattr(torch, group.dtype), T=s.T, B=s.B, H=s.H, needs_grad=group.mode == "training"
    )


def _recurrent(driver: str, group: Group) -> nn.Module:
    s = group.shape
    return gatefuse.Recurrent(s.cell, s.I, s.H, num_layers=s.layers, bidirectional=s.bidirectional, driver=driver)


def _stack(kinds: dict[str, Callable[..., nn.Module]], group: Group) -> nn.Module:
    s = group.shape
    return kinds[s.cell](s.I, s.H, num_layers=s.layers, bidirectional=s.bidirectional)


def _copy(network: nn.Module, source: nn.Module, dtype: torch.dtype | None = None) -> Network:
    like = next(source.parameters())
    network = network.to(device=like.device, dtype=dtype or like.dtype)
    network.load_state_dict(source.state_dict())
    return _network(network)


def _network(network: nn.Module, batch_first: bool = False) -> Network:
    return Network(lambda x: network(x)[0], tuple(network.parameters()), batch_first)


def _gatefuse(driver: str) -> Callable[[Group, nn.Module], Network]:
    return lambda group, source: _copy(_recurrent(driver, group), source)


def _auto(group: Group, source: nn.Module) -> Network:
    if group.shape.cell in _DROP_IN:
        return _copy(_stack(_DROP_IN, group), source)
    return _copy(_recurrent("auto", group), source)


def _torch(group: Group, source: nn.Module) -> Network:
    return _copy(_stack(_TORCH, group), source)


def _scratch(kind: Callable[..., Any], batch_first: bool) -> Callable[[Group, nn.Module], Network]:
    def build(group: Group, source: nn.Module) -> Network:
        like = next(source.parameters())
        network = kind(group.shape.I, group.shape.H, device=like.device, dtype=like.dtype)
        load_layer_state(network, source.state_dict())
        return _network(network, batch_first)

    return build


CONTENDERS = (
    Contender("scratch 8 products", _scratch(NaiveLSTM, batch_first=True), ("lstm",), deep=False),
    Contender("scratch 2 products", _scratch(FusedLSTM, batch_first=True), ("lstm",), deep=False),
    Contender(
        "scratch article",
        _scratch(partial(FusedLSTM, peephole=True), batch_first=True),
        ("article_peephole_lstm",),
        deep=False,
    ),
    Contender("scratch d2l GRU", _scratch(D2LGRU, batch_first=False), ("gru_reset_first",), deep=False),
    *(Contender(f"gatefuse {name}", _gatefuse(name), driver=name) for name in drivers.DRIVERS),
    Contender("gatefuse auto", _auto, driver="auto"),
    Contender("torch.nn", _torch, tuple(_TORCH)),
)

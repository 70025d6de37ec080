"""A contender: how its network is built, and what it can't run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gatefuse.bench.suite.sweeps import Group
from gatefuse.kernels import plan
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.loops.registry import KERNELS
from gatefuse.kernels.task import Request


class Layout(NamedTuple):
    """How a network has its sequences.

    Attributes:
        there: from (T, B, ·), before anything is timed.
        back: the way back, after.
    """

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


TIME_FIRST = Layout(lambda sequence: sequence, lambda sequence: sequence)
BATCH_FIRST = Layout(lambda sequence: sequence.transpose(0, 1).contiguous(), lambda sequence: sequence.transpose(0, 1))


def inputs(group: Group, like: Tensor) -> dict[str, Tensor]:
    """What the group's cell is given beside its gates, from 0 to 1, (T, B) each: the same for all contenders."""
    shape, generator = (group.shape.T, group.shape.B), torch.Generator().manual_seed(0)
    names = find_cell(group.shape.cell).inputs
    return {name: torch.rand(shape, generator=generator).to(like) for name in names}


@dataclass(frozen=True)
class Network:
    """A built contender.

    Attributes:
        forward: x -> the output of every step, both in the layout.
        parameters: what training differentiates besides x.
    """

    forward: Callable[[Tensor], Tensor]
    parameters: tuple[Tensor, ...]
    layout: Layout = TIME_FIRST


@dataclass(frozen=True)
class Contender:
    """A way to run a group, to be measured beside others.

    Attributes:
        build: (group, source) -> Network with the source's weights, in its dtype, on its device.
        cells: those it is measured for; None for all.
        driver: a gatefuse driver's name, or auto; "" for others.
        deep: it can stack layers and run both directions.
        dtypes, modes: those that it can do; None for all.
        ragged: it can be told the samples' lengths; one_way: it can then run one direction alone.
        headed: R may be of heads.
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
    headed: bool = False
    only_ragged: bool = False
    optional: bool = False
    why: Callable[[Group, torch.device], str] = lambda group, device: ""

    def refusal(self, group: Group, device: torch.device) -> str:
        """Why it can't run that, in words; "" where it can."""
        s = group.shape
        if not self.deep and (s.layers > 1 or s.bidirectional):
            return "written for one layer and one direction"
        if s.heads > 1 and not self.headed:
            return "it has no heads"
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
        if self.driver in KERNELS and device.type == "cpu":
            return "needs a GPU; on a CPU its kernels run in Triton's interpreter, which is for tests"
        if self.driver and self.driver != "auto":
            return driver(self.driver).refusal(_request(group, device))
        return ""

    def ran(self, group: Group, device: torch.device) -> str:
        """The gatefuse driver that runs the group, "" for others."""
        return plan.choose(_request(group, device), self.driver).driver if self.driver else ""


def _request(group: Group, device: torch.device) -> Request:
    s = group.shape
    return Request(
        find_cell(s.cell),
        device,
        getattr(torch, group.dtype),
        T=s.T,
        B=s.B,
        H=s.H,
        needs_grad=group.mode == "training",
        lengths=bool(s.lengths),
    )

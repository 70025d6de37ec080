"""torch.compile over one step: a plain Python loop over a compiled function of the equations, nothing unrolled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gatefuse.bench.suite.contender import Network
from gatefuse.bench.suite.sweeps import Group
from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.recurrence import Recurrence
from gatefuse.models.execution.calls import first_states

# A compilation takes seconds, several a cell; these sweeps have the time.
SWEEPS = {"cpu": ("real",), "cuda": ("real", "full")}


def no_time(group: Group, device: torch.device) -> str:
    """Why nothing that compiles for long is measured in the group's sweep, "" where it is."""
    named = SWEEPS["cpu" if device.type == "cpu" else "cuda"]
    if group.sweep in named:
        return ""
    what = "measures" if len(named) == 1 else "measure"
    return f"it compiles for longer than this sweep is to take; {' and '.join(named)} {what} it"


def refusal(group: Group, device: torch.device) -> str:
    """Why it isn't measured there: no compiler, or a sweep that is to take minutes."""
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        return "torch.compile needs a C++ compiler on a CPU, and there is none"
    if find_cell(group.shape.cell).inputs:
        return "its step is given no inputs beside the gates"
    return no_time(group, device)


def build(group: Group, source: nn.Module) -> Network:
    """The compiled step in its loop, with copies of the source's weights."""
    cell = find_cell(group.shape.cell)
    weights = {name: value.detach().clone().requires_grad_() for name, value in source.named_parameters()}
    w_ih, w_hh, b_ih, b_hh, *parameters = weights.values()
    step = _step(cell, group.dtype, group.mode, w_ih.device.type)

    def run(x: Tensor) -> Tensor:
        states = first_states(cell, x, x.shape[1], group.shape.H)
        output = []
        for x_t in linear(x, w_ih, b_ih).unbind(0):
            states = step(x_t, w_hh, b_hh, parameters, states)
            output.append(states[0])
        return torch.stack(output)

    return Network(run, tuple(weights.values()))


@cache
def _step(cell: Cell, *_of: str) -> Callable[..., tuple[Tensor, ...]]:
    """A step of a cell, compiled for all sizes; one by use, since torch keeps few compilations of one function."""

    def step(x: Tensor, weight: Tensor, bias: Tensor, parameters: list[Tensor], states: tuple[Tensor, ...]) -> Any:
        R = Recurrence(cell.recurrent_gates, weight, bias, cell.gates)
        gates = Gates(cell.input_gates, x, whole=cell.gates)
        return cell.step(gates, R, states, dict(zip(cell.parameters, parameters, strict=True)))

    # Compilations are counted by code, which all closures of one function share.
    code = step.__code__.replace(co_name="_".join(("step", cell.name, *_of)))
    own = FunctionType(code, step.__globals__, step.__name__, closure=step.__closure__)
    return torch.compile(own, dynamic=True)

"""What a call costs the host: layers by the drivers with kernels, over tensors on a CPU and with launches that are
counted in place of being done, beside torch.nn's whole call.

On a GPU a short sequence lasts as long as the host takes to start it. Nothing here needs one. torch.nn's figure holds
its arithmetic too, which is little at this size, and gatefuse's none of Triton's own work for a launch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn

import gatefuse
from gatefuse.kernels.drivers import common
from gatefuse.kernels.loops.registry import KERNELS
from gatefuse.kernels.runtime.launcher import compile_only

T, B, H = 2, 2, 16
KINDS = ("LSTM", "GRU")
MODES = ("forward", "training")
# As short as a sample can be, and as many as it takes to find a quiet moment for each, where others are at work.
_CALLS, _ROUNDS = 15, 100


class Cost(NamedTuple):
    """Of a call: microseconds at the least, Python functions called, and kernels started; 0 for torch.nn."""

    us: float
    functions: int
    launches: int


def costs(kind: str, rounds: int = _ROUNDS) -> dict[tuple[str, str], Cost]:
    """Costs by contender and mode of a layer of torch.nn's name. To be called in a process of its own, as what is
    planned in here for a CPU no CPU can run.

    Raises:
        RuntimeError: Triton's interpreter is on.
    """
    with _stubbed() as launched:
        calls = dict(_calls(kind))
        counted = {}
        for key, call in calls.items():
            for _ in range(20):  # plans, tiles and code of the first
                call()
            del launched[:]
            functions = _functions(call)
            counted[key] = functions, len(launched)
        best = _best(calls, rounds)
        return {key: Cost(best[key], *counted[key]) for key in calls}


def table(rounds: int = _ROUNDS) -> str:
    """The costs in words and columns."""
    lines = [f"T {T}, B {B}, H {H}, float32; microseconds of the host, over torch.nn's, functions of Python, launches"]
    for kind in KINDS:
        found = costs(kind, rounds)
        for (name, mode), cost in found.items():
            ratio = cost.us / found["torch.nn", mode].us
            lines.append(f"{kind:6}{mode:10}{name:16}{cost.us:8.0f}{ratio:8.2f}x{cost.functions:8}{cost.launches:6}")
    return "\n".join(lines)


@contextmanager
def _stubbed() -> Iterator[list[Any]]:
    """Kernels' launches only noted, and tensors on a CPU taken for such as kernels run on."""
    from triton.backends.compiler import GPUTarget

    from gatefuse.kernels.loops.triton import block, grid, step_launches

    launched: list[Any] = []

    def launch(kernel: Any, *_: Any, **__: Any) -> None:
        launched.append(kernel)

    with ExitStack() as stack:
        stack.enter_context(compile_only(GPUTarget("cuda", 90, 32)))
        stack.enter_context(mock.patch.object(common, "refusal", return_value=""))
        for loop in (block, grid, step_launches):
            stack.enter_context(mock.patch.object(loop, "launch", launch))
        yield launched


def _calls(kind: str) -> Iterator[tuple[tuple[str, str], Callable[[], object]]]:
    x, upstream = torch.randn(T, B, H), torch.randn(T, B, H)
    leaf = x.clone().requires_grad_()
    layers = {"torch.nn": getattr(nn, kind)(H, H)}
    layers |= {f"gatefuse {name}": getattr(gatefuse, kind)(H, H, driver=name) for name in KERNELS}
    for name, layer in layers.items():
        wanted = leaf, *layer.parameters()

        def forward(layer: nn.Module = layer) -> None:
            with torch.no_grad():
                layer(x)

        def training(layer: nn.Module = layer, wanted: tuple[torch.Tensor, ...] = wanted) -> None:
            torch.autograd.grad(layer(leaf)[0], wanted, upstream)

        yield (name, "forward"), forward
        yield (name, "training"), training


def _best(calls: Mapping[tuple[str, str], Callable[[], object]], rounds: int) -> dict[tuple[str, str], float]:
    """Microseconds of each call at the least, sampled in turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for key, call in calls.items():
            began = time.perf_counter()
            for _ in range(_CALLS):
                call()
            best[key] = min(best[key], (time.perf_counter() - began) / _CALLS * 1e6)
    return best


def _functions(call: Callable[[], object]) -> int:
    """How many functions of Python a call calls, itself left out."""
    count = -1

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count

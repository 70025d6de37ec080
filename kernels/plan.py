"""Which driver runs a call, and why, in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from gatefuse.kernels import costs
from gatefuse.kernels.costs import Cost
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.runtime.device import limits
from gatefuse.kernels.task import Request
from gatefuse.kernels.tiling import tiles

# What auto considers, best first where nothing is known of costs. script is for those who ask for it.
_PREFERENCE = {"cpu": ("llvm", "vendor", "aten", "eager"), "gpu": ("vendor", "block", "step", "eager", "grid")}
_WHY = {
    "vendor": "torch has its own compiled loop for this cell",
    "block": "one kernel for all steps, with the recurrent weights on the chip",
    "grid": "one kernel for all steps, of programs that share the recurrent weights on the chip",
    "step": "one product and one fused kernel a step",
    "llvm": "machine code for all steps, made of the equations for this processor",
    "aten": "torch operators generated from the equations, with a backward of their own",
    "eager": "the Python loop runs everything; driver='script' asks for a TorchScript loop",
}
_UNPROVEN = "its barrier between programs was not measured on this device; driver='grid' asks for it"


@dataclass(frozen=True)
class Plan:
    """A driver and the reasons: ``str(plan)`` is text for people.

    Attributes:
        driver: what runs.
        reason: why it was picked.
        refused: every driver that can't run this call, or that auto leaves out, with the reason.
        costs: of drivers that can run it what is known, on a CPU where one of them was measured to be faster than the
            first: microseconds a step, measured or, on a GPU, predicted, with the backward where gradients are wanted.
        tiles: how its kernels cut the work, forward and backward; empty where there is nothing to cut.
    """

    driver: str
    reason: str
    refused: dict[str, str] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    tiles: tuple[NamedTuple, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.driver}: {self.reason}."]
        lines += [f"  {way}: {cut}." for way, cut in zip(("forward", "backward"), self.tiles, strict=False)]
        lines += [f"  {name}: {cost}." for name, cost in sorted(self.costs.items(), key=lambda item: item[1])]
        lines += [f"  not {name}: {why}." for name, why in self.refused.items()]
        return "\n".join(lines)


def choose(request: Request, wanted: str = "auto") -> Plan:
    """The plan for a call.

    On a CPU llvm where it can, unless another was measured to be faster on this one, else torch's own loop, else aten
    where it is faster, else eager. On a GPU the driver of the least cost. Predictions rank gatefuse's own drivers
    alone: torch's own loop comes first, unless it and a faster one were both measured.

    Raises:
        ValueError: no driver has the wanted name.
        RuntimeError: the wanted driver can't run this call; the message says why.
    """
    if wanted != "auto":
        if why := driver(wanted).refusal(request):
            raise RuntimeError(f"driver {wanted} can't run this call: {why}.")
        return Plan(wanted, "asked for")
    on_cpu = request.device.type == "cpu"
    possible: list[str] = []
    refused: dict[str, str] = {}
    for name in _PREFERENCE["cpu" if on_cpu else "gpu"]:
        # what is asked first takes neither a trace nor an import
        why = driver(name).unwise(request) if name in ("aten", "llvm") else ""
        why = why or driver(name).refusal(request)
        if not why and name == "grid" and not costs.proven(name, request.device):
            why = _UNPROVEN
        if why:
            refused[name] = why
        else:
            possible.append(name)
            # A tracer must not be led into the table of costs.
            if torch.compiler.is_compiling() or (on_cpu and not costs.proven("llvm", request.device)):
                return Plan(name, _WHY[name], refused)
    known = {name: found for name in possible if (found := costs.cost(name, request))}
    name = _cheapest(possible, known)
    return Plan(name, _WHY[name], refused, known, cuts(name, request))


def _cheapest(possible: list[str], known: dict[str, Cost]) -> str:
    """The first in the order of preference, unless its cost is known, and another's is less. What torch's own costs is
    known only where it was measured, and compared only with what was."""
    first = possible[0]
    if first == "vendor":
        known = {name: cost for name, cost in known.items() if cost.source == "measured"}
    return min(known, key=lambda name: known[name].us) if first in known else first


def explain(request: Request, wanted: str = "auto") -> Plan:
    """As choose, and names every driver that can't run this call, also those that auto would not try."""
    plan = choose(request, wanted)
    refused = {name: driver(name).refusal(request) for name in DRIVERS}
    refused = plan.refused | {name: why for name, why in refused.items() if why}
    return Plan(plan.driver, plan.reason, refused, plan.costs, cuts(plan.driver, request))


def cuts(name: str, request: Request) -> tuple[NamedTuple, ...]:
    """How that driver's kernels cut a call, forward and, where gradients are wanted, backward."""
    if name == "block":
        return (tiles.block_tiles(request.H, "forward", request.cell.program),) * (1 + request.needs_grad)
    if name != "grid":
        return ()
    call = request.cell.program, request.H, request.B, request.dtype.itemsize, limits(request.device)
    forward = tiles.grid_tiles(*call)
    return (forward, tiles.grid_backward_tiles(*call)) if request.needs_grad else (forward,)

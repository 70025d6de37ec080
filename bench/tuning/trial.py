"""A trial: one variant in one pass at one place. Is it right, and how long does it take beside the unchanged pass?

What is timed is the loop itself, as the operator calls it: all steps, without the input's product, and backward with
the products over all steps behind them. The variant is right if it gives the unchanged pass's bits, or errs by no more
than the rule of CONTRIBUTING.md allows of an eager loop's error in the same task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import nan
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from gatefuse.bench.measure.clocks import Clock
from gatefuse.bench.measure.sampling import describe, measure
from gatefuse.bench.tuning.variant import Place, Trial
from gatefuse.kernels import tolerance
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.loops.buffers import Upstream
from gatefuse.kernels.loops.eager import loop_in_order
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.registry import loop_module
from gatefuse.kernels.tiling.overrides import trying

STEPS = 256
CHECKED = 16  # steps of the task in which it must be right
BUDGET = 0.6  # seconds for a trial's samples
_RESULTS = {"forward": ("output", "finals"), "backward": ("x", "states", "weight", "bias", "parameters")}

Call = Callable[[], Mapping[str, Tensor]]


class Verdict(NamedTuple):
    """Whether a variant is right: by the unchanged pass's bits, or else by its worst error and what is allowed."""

    same_bits: bool
    error: float = nan
    allowed: float = nan


def key(trial: Trial) -> dict[str, Any]:
    """What tells a trial's row from others, and what was expected of it."""
    variant = trial.variant
    return {
        "variant": variant.name, **trial.place._asdict(), "way": trial.way, "loop": variant.loop, "T": STEPS,
        "change": variant.change, "expected": variant.ratio, "why": variant.why,
    }  # fmt: skip


def measured(trial: Trial, clock: Clock, device: torch.device, steps: int = STEPS) -> dict[str, Any]:
    """The row of a trial, ``status`` ok, wrong or failed."""
    row = {**key(trial), "T": steps}
    try:
        right = check(trial, make_inputs(trial.place, min(CHECKED, steps), device))
        row |= right._asdict()
        if not right.same_bits and not right.error <= right.allowed:
            note = f"it may err by {right.allowed:.2g} where its bits are others. Got {right.error:.2g}."
            return {**row, "status": "wrong", "note": note}
        calls = make_calls(trial, make_inputs(trial.place, steps, device))
        # A graph's time is the device's alone; but a graph of the caller's would take step's own recordings apart.
        samples = measure(calls, clock, BUDGET, graphs=trial.variant.loop != "step")
    except Exception as error:  # one trial's end must not be that of all
        return {**row, "status": "failed", "note": describe(error)}
    if failures := [f"{name}: {found.failure}" for name, found in samples.items() if found.failure]:
        return {**row, "status": "failed", "note": "; ".join(failures)}
    replayed = all(found.graph for found in samples.values())
    seconds = {name: found.graph if replayed else found.seconds for name, found in samples.items()}
    each = [pd.Series(seconds[name]).quantile([0.2, 0.5, 0.8]) for name in ("default", "variant")]
    low, middle, high = zip(*each, strict=True)
    return {
        **row, "status": "ok", "samples": len(seconds["variant"]), "default_us": middle[0] * 1e6 / steps,
        "us": middle[1] * 1e6 / steps, "ratio": middle[1] / middle[0], "ratio_low": low[1] / high[0],
        "ratio_high": high[1] / low[0],
    }  # fmt: skip


def make_inputs(place: Place, T: int, device: torch.device) -> Sequence:
    """A sequence of random values, with weights as a layer begins with; the same for the same place and length."""
    cell, generator = find_cell(place.cell), torch.Generator(device).manual_seed(0)
    B, H, G, S = place.B, place.H, len(cell.x_blocks), len(cell.states)

    def draw(*shape: int, within: float = 1.0) -> Tensor:
        value = torch.rand(*shape, generator=generator, device=device) * 2 - 1
        return (value * within).to(getattr(torch, place.dtype))

    bound, M = H**-0.5, len(cell.recurrent_gates)
    return Sequence(
        cell, draw(T, B, G * H), draw(S, B, H).abs(), draw(M * H, H, within=bound), draw(M * H, within=bound),
        draw(len(cell.parameters), H, within=bound), None, None, None, "forward",
    )  # fmt: skip


def make_calls(trial: Trial, inputs: Sequence) -> dict[str, Call]:
    """The ``default`` pass and the ``variant``, over the same inputs; both backward from the unchanged forward."""
    loop, variant = loop_module(trial.variant.loop), trial.variant
    if variant.way == "backward":
        kept, given = loop.forward(inputs, True, False), make_upstream(inputs)
        run = lambda: loop.backward(inputs, kept, given)  # noqa: E731
    else:
        run = lambda: loop.forward(inputs, trial.way == "training forward", False)  # noqa: E731

    def changed() -> Mapping[str, Tensor]:
        with trying(variant.loop, variant.way, variant.changes):
            return run()._asdict()

    return {"default": lambda: run()._asdict(), "variant": changed}


def make_upstream(inputs: Sequence) -> Upstream:
    """Random gradients of a sequence's output and last states."""
    x, generator = inputs.x, torch.Generator(inputs.x.device).manual_seed(1)
    shapes = (inputs.T, inputs.B, inputs.W), inputs.states.shape
    output, finals = (torch.randn(s, generator=generator, device=x.device).to(x.dtype) for s in shapes)
    return Upstream(output, None, finals)


def check(trial: Trial, inputs: Sequence) -> Verdict:
    """Whether a variant computes the same."""
    calls = make_calls(trial, inputs)
    default, variant = calls["default"](), calls["variant"]()
    names = _RESULTS[trial.variant.way]
    if all(torch.equal(default[name], variant[name]) for name in names):
        return Verdict(True)
    exact = _eager(inputs, trial.variant.way, torch.float64)
    plain = _eager(inputs, trial.variant.way, inputs.x.dtype)
    eager, error = (tolerance.worst(_errors(found, exact)) for found in (plain, variant))
    return Verdict(False, error, tolerance.allowed(eager, torch.finfo(inputs.x.dtype).eps))


def _errors(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> Iterator[float]:
    return (tolerance.error(found[name], value) for name, value in exact.items() if value.numel())


def _eager(inputs: Sequence, way: str, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """The eager loop's results in a dtype, by the names of _RESULTS."""
    x, states, weight, bias, parameters = leaves = [
        value.detach().to(dtype).requires_grad_()
        for value in (inputs.x, inputs.states, inputs.weight, inputs.bias, inputs.parameters)
        if value is not None
    ]
    with torch.enable_grad():
        found = loop_in_order(inputs.cell, x, states, weight, bias, parameters, None, None, None, "forward")
        results = found.sequences[0], torch.stack(found.finals)
        if way == "forward":
            return dict(zip(_RESULTS[way], (value.detach() for value in results), strict=True))
        given = make_upstream(inputs)
        upstream = [d.to(dtype) for d in (given.output, given.finals) if d is not None]
        gradients = torch.autograd.grad(results, leaves, upstream, allow_unused=True, materialize_grads=True)
    return dict(zip(_RESULTS[way], gradients, strict=True))

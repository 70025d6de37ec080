"""One group from beginning to end: build the contenders, check each against float64, time them in turns, make rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from gatefuse.bench import contenders as who
from gatefuse.bench.clocks import Clock
from gatefuse.bench.limits import Limits
from gatefuse.bench.measure import Samples, describe, measure
from gatefuse.bench.rows import Row, compare
from gatefuse.bench.sweeps import Group

# A contender that errs by more computes something else, and how fast it does so is of no interest. Wide enough for
# TF32 and for long sequences in half precision; the tests hold the drivers to much less.
WRONG = {"float64": 1e-9, "float32": 2e-2, "float16": 1e-1, "bfloat16": 3e-1}


def race(
    group: Group,
    clock: Clock,
    device: torch.device,
    budget: float,
    limits: Limits | None = None,
    without: Collection[str] = (),
) -> dict[str, tuple[Row, Samples]]:
    """Rows and samples by contender. A contender that raises, or computes something else, leaves a row that says so.

    Args:
        budget: seconds for the samples of the group; see measure.
        limits: the device's, for the columns of the floor.
        without: contenders that are left out.
    """
    found: dict[str, tuple[Row, Samples]] = {}
    networks: dict[str, who.Network] = {}
    entered: dict[str, who.Contender] = {}
    source = who.make_source(group, device)
    batch = _draw(group, device)
    try:
        truth = _call(group, who.make_oracle(group, source), tuple(t.double() for t in batch))()
    except Exception as error:  # out of memory, most likely: nobody can be checked, so nobody is timed
        note = f"in the float64 reference: {describe(error)}"
        return {c.name: (Row.of(group, c.name, "failed", note), Samples()) for c in who.contenders(group)}
    for contender in who.contenders(group):
        row = Row.of(group, contender.name, "ok")
        found[contender.name] = row, Samples()
        try:
            why = "left out on request" if contender.name in without else contender.refusal(group, device)
            if why:
                row.status, row.note = "left out", why
                continue
            row.driver = contender.ran(group, device)
            networks[contender.name] = contender.build(group, source)
            entered[contender.name] = contender
        except Exception as error:
            row.status, row.note = "left out" if contender.optional else "failed", describe(error)

    def check(name: str, result: object) -> None:
        row = found[name][0]
        row.error = _error(result, truth, networks[name].batch_first)
        if not row.error <= WRONG[group.dtype]:
            raise ArithmeticError(f"errs by {row.error:.2g} against float64, over {WRONG[group.dtype]:.2g}")

    calls = {name: _call(group, network, batch) for name, network in networks.items()}
    with warnings.catch_warnings():
        # What others' compilers warn of is no fault of a measurement; gatefuse's own warnings stay errors.
        warnings.filterwarnings("ignore", module=r"torch\._|flashrnn|haste_pytorch|torchrl")
        measured = measure(calls, clock, budget, check, graphs=not group.shape.lengths)
    for name, samples in measured.items():
        row = found[name][0]
        row.take(samples)
        if row.status == "failed" and entered[name].optional and not row.error > WRONG[group.dtype]:
            row.status = "left out"
        found[name] = row, samples
    rows = [row for row, _ in found.values()]
    compare(rows, who.baseline(group, device))
    if limits:
        floor = limits.floor(group)
        for row in rows:
            row.bound(floor)
    return found


def _draw(group: Group, device: torch.device) -> tuple[Tensor, ...]:
    """The input (T, B, I) and the gradient that reaches the output (T, B, D * H)."""
    s = group.shape
    sizes = s.I, s.H * s.directions
    return tuple(torch.randn(s.T, s.B, size, device=device, dtype=getattr(torch, group.dtype)) for size in sizes)


def _call(group: Group, network: who.Network, batch: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """What is timed. Forward: the output, without autograd. Training: the output, the gradients of input and weights.

    It returns the output and, in training, the input's gradient, in the network's layout.
    """
    x, upstream = (t.transpose(0, 1).contiguous() for t in batch) if network.batch_first else batch
    if group.mode == "forward":

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (network.forward(x),)

        return forward

    x = x.detach().requires_grad_()
    wanted = (x, *network.parameters)

    def training() -> tuple[Tensor, ...]:
        output = network.forward(x)
        # Unused: the article's peephole sees no recurrent bias of its candidate.
        gradient, *_ = torch.autograd.grad(output, wanted, upstream, allow_unused=True)
        return output.detach(), gradient

    return training


def _error(result: object, truth: tuple[Tensor, ...], batch_first: bool) -> float:
    """The largest difference over the largest value, of the worst among output and gradient; NaN if any is."""
    assert isinstance(result, tuple)
    errors = []
    for got, ref in zip(result, truth, strict=True):
        got = got.transpose(0, 1) if batch_first else got
        errors.append(float((got - ref).abs().max() / ref.abs().max()))
    return max(errors, key=lambda error: (error != error, error))

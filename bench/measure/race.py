"""The race of a group: build the contenders, check each against float64, time them in turns, make rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gatefuse.bench.measure.broken_device import blame
from gatefuse.bench.measure.clocks import Clock
from gatefuse.bench.measure.peaks import Limits
from gatefuse.bench.measure.row import Row, compare
from gatefuse.bench.measure.sampling import Samples, describe, measure
from gatefuse.bench.storage.sweep_table import ON_REQUEST, UNCHECKED
from gatefuse.bench.suite import contenders as who
from gatefuse.bench.suite import networks
from gatefuse.bench.suite.contender import Contender, Layout, Network
from gatefuse.bench.suite.sweeps import Group
from gatefuse.kernels import tolerance

# A contender that errs by more computes something else, and how fast it does so is of no interest. Wide enough for
# TF32 and for long sequences in half precision; the tests hold the drivers to much less.
WRONG = {"float64": 1e-9, "float32": 2e-2, "float16": 1e-1, "bfloat16": 3e-1}

# What is run besides contenders.
REFERENCE, LIMIT = "the reference", "the limit"


def race(
    group: Group,
    clock: Clock,
    device: torch.device,
    budget: float,
    limits: Limits | None = None,
    without: Collection[str] = (),
    begins: Callable[[str], object] = lambda name: None,
) -> dict[str, tuple[Row, Samples]]:
    """Rows and samples by contender. A contender that raises, or computes something else, leaves a row that says so.

    Args:
        budget: seconds for the samples of the group; see measure.
        limits: the device's, for the columns of the floor.
        without: contenders that are left out.
        begins: told a contender's name, REFERENCE or LIMIT before each time that it is run.

    Raises:
        BrokenError: the device answers no more, after the one that it names.
    """
    begins(REFERENCE)
    try:
        source = networks.make_source(group, device)
        batch = _draw(group, device)
        truth = _call(group, networks.make_oracle(group, source), tuple(t.double() for t in batch))()
    except Exception as error:  # out of memory, most likely: nobody can be checked, so nobody is timed
        blame(REFERENCE, error)
        note = f"{UNCHECKED}{describe(error)}"
        return {c.name: (Row(group, c.name, "failed", note), Samples()) for c in who.contenders(group)}
    rows: dict[str, Row] = {}
    built: dict[str, Network] = {}
    entered: dict[str, Contender] = {}
    for contender in who.contenders(group):
        row = rows[contender.name] = Row(group, contender.name)
        try:
            why = ON_REQUEST if contender.name in without else contender.refusal(group, device)
            if why:
                row.status, row.note = "left out", why
                continue
            row.driver = contender.ran(group, device)
            begins(contender.name)
            with _forgiving(contender):
                built[contender.name] = contender.build(group, source)
            entered[contender.name] = contender
        except Exception as error:
            blame(contender.name, error)
            row.status, row.note = "left out" if contender.optional else "failed", describe(error)

    def check(name: str, result: object) -> None:
        row = rows[name]
        row.error = _error(result, truth, built[name].layout)
        if not row.error <= WRONG[group.dtype]:
            raise ArithmeticError(f"errs by {row.error:.2g} against float64, over {WRONG[group.dtype]:.2g}")

    calls = {name: _call(group, network, batch) for name, network in built.items()}
    with warnings.catch_warnings():
        # What others' compilers warn of is no fault of a measurement; gatefuse's own warnings stay errors.
        warnings.filterwarnings("ignore", module=r"torch\._|triton|flashrnn|haste_pytorch|torchrl|tensordict")
        measured = measure(calls, clock, budget, check, begins, graphs=not group.shape.lengths)
    for name, samples in measured.items():
        row = rows[name]
        row.take(samples)
        if row.status == "failed" and entered[name].optional and not row.error > WRONG[group.dtype]:
            row.status = "left out"
    compare(list(rows.values()), who.baseline(group))
    if limits:
        begins(LIMIT)
        try:
            floor = limits.floor(group)
        except Exception as error:
            blame(LIMIT, error)
            raise
        for row in rows.values():
            row.floor = floor
    return {name: (row, measured.get(name, Samples())) for name, row in rows.items()}


@contextmanager
def _forgiving(contender: Contender) -> Iterator[None]:
    """Importing somebody else's package may warn of anything."""
    with warnings.catch_warnings():
        if contender.optional:
            warnings.simplefilter("ignore")
        yield


def _draw(group: Group, device: torch.device) -> tuple[Tensor, ...]:
    """The input (T, B, I) and the gradient that reaches the output (T, B, D * H), the same for the same group.

    They come from a generator of their own: a capture that fails leaves the device's unusable.
    """
    s, generator = group.shape, torch.Generator(device).manual_seed(1)
    return tuple(
        torch.randn(s.T, s.B, size, device=device, dtype=getattr(torch, group.dtype), generator=generator)
        for size in (s.I, s.H * s.directions)
    )


def _call(group: Group, network: Network, batch: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """What is timed. Forward: the output, without autograd. Training: the output, the gradients of input and weights.

    It returns the output and, in training, the input's gradient, in the network's layout.
    """
    x, upstream = map(network.layout.there, batch)
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


def _error(result: object, truth: tuple[Tensor, ...], layout: Layout) -> float:
    """The largest difference over the largest value, of the worst among output and gradient; NaN if any is."""
    assert isinstance(result, tuple)
    errors = (tolerance.error(layout.back(got), reference) for got, reference in zip(result, truth, strict=True))
    return tolerance.worst(errors)

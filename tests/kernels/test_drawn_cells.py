"""Whatever a cell's equations say, every driver gives their numbers and their gradients, for every number of steps."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.testing import assert_close

from gatefuse import Recurrent
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.recurrence import Recurrence
from gatefuse.kernels.task import Request
from tests.support import oracle
from tests.support.drawn_cells import Drawn, draw_cell
from tests.support.oracle import make_task

B, I, H = 2, 3, 5
FEW, MANY = 3, 16
DRAWN, PARTS = 2000, 8
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_driver_gives_the_numbers_of_the_equations(part):
    seen: Counter[str] = Counter()
    for seed in range(part, DRAWN, PARTS):
        # by turns those that take long to compile
        check(draw_cell(seed), seen, script=seed // PARTS % 5 == 0, compiled=seed // PARTS % 10 == 1)
    assert seen["cells"] == DRAWN // PARTS
    # neither few nor all of the two turns
    assert seen["cells"] * 0.7 < seen["translated"] < 1.7 * seen["cells"]
    assert seen["script"] > 0.05 * seen["cells"]
    assert seen["llvm"] > 0.05 * seen["cells"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_kernels_give_the_numbers_of_the_equations(name):
    ran = 0
    for seed in range(DRAWN, DRAWN + 60):
        drawn = draw_cell(seed)
        task = make_task(drawn.cell, 3, B, H)
        if not driver(name).refusal(Request(drawn.cell, task.x.device, torch.float32, 3, B, H)):
            oracle.check(driver(name), task, torch.float32, torch.device("cpu"))
            ran += 1
    assert ran > 15


def check(drawn: Drawn, seen: Counter[str], script: bool, compiled: bool) -> None:
    """Once as it was drawn, and once more after what lies outside of the equations has changed."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(MANY, B, I, dtype=torch.float64, generator=generator)
    first = [torch.randn(1, B, H, dtype=torch.float64, generator=generator) for _ in drawn.cell.states]
    layer = Recurrent(drawn.cell, I, H, dtype=torch.float64)
    seen["cells"] += 1
    for turn in range(2):
        names = ["eager"]
        if not driver("aten").refusal(Request(drawn.cell, x.device, x.dtype, MANY, B, H)):
            seen["translated"] += 1
            names += ["aten"] + ["script"] * (script and not turn) + ["llvm"] * compiled
        else:
            names += ["auto"]
        for T in (FEW, MANY):
            expected = found(drawn, layer, x[:T], first, None)
            for name in names:
                seen[name] += 1
                same(drawn, name, T, found(drawn, layer, x[:T], first, name), expected)
        drawn.outside.change()


def found(drawn: Drawn, layer: Recurrent, x: Tensor, first: list[Tensor], by: str | None) -> list[Tensor | None]:
    """Output, final states and all gradients by a driver, or by the loop that the equations stand for."""
    drawn.outside.begin()
    layer = copy.deepcopy(layer)
    inputs = [t.clone().requires_grad_() for t in (x, *first)]
    states = [t * 1 for t in inputs[1:]]  # no leaves, which nobody may change in place
    given = [s.detach().clone() for s in states]
    if by is None:
        output, finals = plain(layer, inputs[0], states)
    else:
        layer.driver = by
        output, finals = layer(inputs[0], tuple(states) if len(states) > 1 else states[0])
        finals = finals if isinstance(finals, tuple) else (finals,)
        for before, after in zip(given, states, strict=True):
            assert torch.equal(before, after), f"{drawn}{by}: a first state of the caller's was changed"
    if by == "llvm":  # which has another way where nothing is differentiated
        with torch.no_grad():
            again, last = layer(x, tuple(given) if len(given) > 1 else given[0])
        assert_close(again, output.detach(), **CLOSE, equal_nan=True, msg=lambda text: f"{drawn}inference: {text}")
        for a, b in zip(last if isinstance(last, tuple) else (last,), finals, strict=True):
            assert_close(a, b.detach(), **CLOSE, equal_nan=True, msg=lambda text: f"{drawn}inference, final: {text}")
    loss = output.square().sum() + sum(f.sum() * (k + 1) for k, f in enumerate(finals))
    if by is not None or loss.requires_grad:
        loss.backward()
    learned = [*inputs, *layer.parameters()]
    gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in learned]
    return [output, *finals, *gradients, *drawn.outside.gradients()]


def plain(layer: Recurrent, x: Tensor, states: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The equations step by step, as anybody would write the loop."""
    cell = layer.cell
    product = linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
    R = Recurrence(cell.recurrent_gates, layer.weight_hh_l0, layer.bias_hh_l0, cell.gates)
    parameters = {name: getattr(layer, f"{name}_l0") for name in cell.parameters}
    now, outputs = tuple([s[0] for s in states]), []
    for step in product:
        # copies: equations that change a state in place mean their own
        new = cell.equations(
            Gates(cell.input_gates, step, whole=cell.gates), R, *[s.clone() for s in now], **parameters
        )
        now = tuple([s.double().expand(B, H) for s in (new if isinstance(new, tuple) else (new,))])
        outputs.append(now[0])
    return torch.stack(outputs), tuple([s.unsqueeze(0) for s in now])


def same(drawn: Drawn, name: str, T: int, results: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for k, (a, b) in enumerate(zip(results, expected, strict=True)):
        assert_close(a, b, **CLOSE, equal_nan=True, msg=lambda text, k=k: f"{drawn}{name}, T {T}, result {k}: {text}")

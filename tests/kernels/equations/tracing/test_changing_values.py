"""Values from outside of equations that change: every driver follows them, wherever they are."""

from __future__ import annotations

import contextvars
import functools
import threading
from enum import Enum
from typing import NamedTuple

import pytest
import torch
from torch import nn, tanh
from torch.testing import assert_close

import gatefuse
from gatefuse import cell
from tests.support import drawn_cells

T, B, I, H = 20, 2, 3, 4


def changing(value):
    """A cell that uses a number of an enclosing function, and a function that sets it."""

    @cell(gates="a")
    def unit(x, R, h):
        return tanh(x.a + R.a(h)) * value

    def change(new):
        nonlocal value
        value = new

    return unit, change


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm", "script", "auto"])
def test_a_number_that_changes_is_followed(driver):
    unit, change = changing(0.5)
    layer, x = gatefuse.Recurrent(unit, I, H, driver=driver), torch.randn(T, B, I)
    for value in (0.5, 2.0, -1.0, 0.5):
        change(value)
        other = gatefuse.Recurrent(changing(value)[0], I, H, driver="eager")
        other.load_state_dict(layer.state_dict())
        assert_close(layer(x)[0], other(x)[0])


@pytest.mark.parametrize("driver", ["aten", "llvm"])
def test_a_backward_is_that_of_its_forward(driver):
    unit, change = changing(0.5)
    layer, x = gatefuse.Recurrent(unit, I, H, driver=driver), torch.randn(T, B, I)
    layer(x)[0].sum().backward()
    expected = layer.weight_hh_l0.grad.clone()
    layer.zero_grad()
    loss = layer(x)[0].sum()
    change(3.0)
    layer(x)
    loss.backward()
    assert torch.equal(layer.weight_hh_l0.grad, expected)


@pytest.mark.parametrize("driver", ["aten", "llvm"])
def test_second_derivatives_of_other_equations_are_refused(driver):
    unit, change = changing(0.5)
    layer, x = gatefuse.Recurrent(unit, I, H, driver=driver), torch.randn(T, B, I, requires_grad=True)
    loss = layer(x)[0].sum()
    change(3.0)
    with pytest.raises(RuntimeError, match=r"equations of unit that it was made of.* Got another value of value"):
        torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.slow
def test_numbers_that_never_settle_are_left_to_the_python_loop():
    unit, change = changing(0.0)
    x = torch.randn(T, B, I)
    layer = gatefuse.Recurrent(unit, I, H)
    for k in range(12):
        change(float(k))
        expected = layer(x)[0] / max(k, 1)
        assert expected.isfinite().all()
    plan = layer.plan(x)
    assert plan.driver == "eager"
    assert (
        "use value from outside, which changes too often; learn it as a keyword-only parameter" in plan.refused["aten"]
    )


def test_a_function_that_is_exchanged_is_followed():
    outside = drawn_cells.Outside().names
    exec("def unit(x, R, h):\n    return scaled(x.a + R.a(h))", outside)
    unit = cell(gates="a")(outside["unit"])
    before = unit.key
    exec("def scaled(v):\n    return v * 3 * NUMBER", outside)
    assert unit.key != before
    outside["NUMBER"] = 1.5
    assert "4.5" in gatefuse.source(unit) or "3.0" in gatefuse.source(unit)


def test_the_default_dtype_is_followed():
    unit = cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h)) * torch.tensor(0.1))
    layer = gatefuse.Recurrent(unit, I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    found = []
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            found += [layer(x)[0]]
            layer.driver = "eager"
            assert torch.allclose(layer(x)[0], found[-1], rtol=0, atol=1e-13)
            layer.driver = "auto"
        finally:
            torch.set_default_dtype(torch.float32)
    assert not torch.allclose(*found, rtol=0, atol=1e-12)


def test_a_compiled_first_call_has_the_gradients_of_its_own_numbers_or_none():
    unit, change = changing(0.5)
    layer, x = gatefuse.Recurrent(unit, I, H), torch.randn(T, B, I, requires_grad=True)
    loss = torch.compile(layer, backend="aot_eager")(x)[0].sum()
    change(2.0)
    with pytest.raises(RuntimeError, match=r"make it anew where they change\. Got another value of value"):
        torch.autograd.grad(loss, x)


class Mode(Enum):
    PLAIN = 1

    @property
    def rate(self):
        return GLOBALS["rate"]


class Settings(NamedTuple):
    factor: float

    @property
    def rate(self):
        return GLOBALS["rate"] * self.factor


class Table(dict):
    def __getitem__(self, name):
        return GLOBALS["rate"]


GLOBALS = {"rate": 0.5}
TABLE, CHOSEN, MODE = Table(), Settings(1.0), Mode.PLAIN
FUNCTIONS = {"f": lambda v: tanh(v * GLOBALS["rate"])}
INNER = (lambda v: v * GLOBALS["rate"],)


def with_default(v, f=lambda v: v * GLOBALS["rate"]):
    return f(v)


@functools.wraps(torch.nn.functional.relu)
def wrapped(v):
    return torch.nn.functional.relu(v) * GLOBALS["rate"]


PARTIAL = functools.partial(lambda f, v: f(v), lambda v: v * GLOBALS["rate"])
REPLACED = nn.Tanh()
REPLACED.forward = lambda v: torch.tanh(v * GLOBALS["rate"])
VARIABLE: contextvars.ContextVar[float] = contextvars.ContextVar("VARIABLE", default=0.5)
LOCAL = threading.local()


class Asked:
    @property
    def rate(self):
        return VARIABLE.get() * GLOBALS["rate"]

    @property
    def of_thread(self):
        return getattr(LOCAL, "rate", 0.5) * GLOBALS["rate"]

    @property
    def of_mode(self):
        return GLOBALS["rate"] if torch.is_grad_enabled() else 0.1


ASKED = Asked()


@pytest.mark.parametrize(
    "equations",
    [
        lambda x, R, h: FUNCTIONS["f"](x.a + R.a(h)),
        lambda x, R, h: tanh(INNER[0](x.a + R.a(h))),
        lambda x, R, h: tanh(with_default(x.a + R.a(h))),
        lambda x, R, h: tanh(PARTIAL(x.a + R.a(h))),
        lambda x, R, h: REPLACED(x.a + R.a(h)),
        lambda x, R, h: wrapped(x.a + R.a(h)),
        lambda x, R, h: tanh(x.a + R.a(h)) * Mode.PLAIN.rate,
        lambda x, R, h: tanh(x.a + R.a(h)) * MODE.rate,
        lambda x, R, h: tanh(x.a + R.a(h)) * CHOSEN.rate,
        lambda x, R, h: tanh(x.a + R.a(h)) * TABLE["rate"],
        lambda x, R, h: tanh(x.a + R.a(h)) * ASKED.rate,
        lambda x, R, h: tanh(x.a + R.a(h)) * ASKED.of_thread,
        lambda x, R, h: tanh(x.a + R.a(h)) * ASKED.of_mode,
    ],
    ids=range(13),
)
def test_wherever_a_number_is_it_is_followed(equations):
    unit = cell(gates="a")(equations)
    layer, by_hand = (gatefuse.Recurrent(unit, I, H, driver=d, dtype=torch.float64) for d in ("auto", "eager"))
    by_hand.load_state_dict(layer.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    try:
        for rate, of_context in ((0.5, 0.5), (2.0, 1.5), (0.5, 1.5), (-1.0, 0.5)):
            GLOBALS["rate"] = rate
            VARIABLE.set(of_context)
            LOCAL.rate = of_context
            for grad in (True, False):
                with torch.set_grad_enabled(grad):
                    assert_close(layer(x)[0], by_hand(x)[0])
                    if not unit.refusal:
                        layer.driver = "script"
                        assert_close(layer(x)[0], by_hand(x)[0])
                        layer.driver = "auto"
    finally:
        GLOBALS["rate"] = 0.5

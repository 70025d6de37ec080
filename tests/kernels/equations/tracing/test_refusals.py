"""What is said of equations that are written wrongly: the rule, then what was written, and where."""

from __future__ import annotations

import inspect
import re
import warnings
from functools import partial

import pytest
import torch
from torch import nn, tanh

import gatefuse
from gatefuse import Recurrent, cell

B, I, H = 3, 4, 6
FORM = "must have the form f(x, R, state, ..., *, parameter, ...)"
FUNCTION = "what gatefuse.cell makes a cell of must be a function f(x, R, state, ..., *, parameter, ...)"


def plain(x, R, h):
    return tanh(x.a + R.a(h))


def generator(x, R, h):
    yield h


async def later(x, R, h):
    return h


def two(x, R, h, c):
    return h, c


WRITTEN = {
    "no parentheses": (
        lambda: gatefuse.cell(plain),
        TypeError,
        'gatefuse.cell must be given the gates, as @gatefuse.cell(gates="i f"). Got plain alone.',
    ),
    "a list of gates": (
        lambda: cell(gates=["i", "f"]),
        TypeError,
        "gates must be names in one text, separated by blanks, such as \"i f\". Got ['i', 'f'].",
    ),
    "a number of gates": (
        lambda: cell(gates=4),
        TypeError,
        'gates must be names in one text, separated by blanks, such as "i f". Got 4.',
    ),
    "commas": (
        lambda: cell(gates="i,f")(plain),
        ValueError,
        "the gates of plain must be separated by blanks alone. Got 'i,f'.",
    ),
    "no function": (lambda: cell(gates="a")(3), TypeError, f"{FUNCTION}. Got int."),
    "a class": (lambda: cell(gates="a")(nn.Tanh), TypeError, f"{FUNCTION}. Got the class Tanh."),
    "a module": (lambda: cell(gates="a")(nn.Tanh()), TypeError, f"{FUNCTION}. Got Tanh."),
    "a partial": (lambda: cell(gates="a")(partial(plain)), TypeError, f"{FUNCTION}. Got partial."),
    "a generator": (
        lambda: cell(gates="a")(generator),
        TypeError,
        f"{FUNCTION} that returns the new states. Got generator, which is a generator.",
    ),
    "a coroutine": (
        lambda: cell(gates="a")(later),
        TypeError,
        f"{FUNCTION} that returns the new states. Got later, which is async.",
    ),
    "the state first": (
        lambda: cell(gates="a")(lambda h, x, R: h),
        TypeError,
        f"<lambda> {FORM}, with x first and R second. Got (h, x, R).",
    ),
    "R first": (
        lambda: cell(gates="a")(lambda R, x, h: h),
        TypeError,
        f"<lambda> {FORM}, with x first and R second. Got (R, x, h).",
    ),
    "R last": (
        lambda: cell(gates="a")(lambda x, h, R: h),
        TypeError,
        f"<lambda> {FORM}, with x first and R second. Got (x, h, R).",
    ),
    "a list of first values": (
        lambda: cell(gates="a", init=[1.0])(plain),
        TypeError,
        'init must be numbers by state, such as {"h": 1.0}. Got [1.0].',
    ),
    "text for a first value": (
        lambda: cell(gates="a", init={"h": "one"})(plain),
        TypeError,
        "init of h must be a number. Got 'one'.",
    ),
    "first values of each unit": (
        lambda: cell(gates="a", init={"h": torch.ones(2)})(plain),
        TypeError,
        "init of h must be a number. Got tensor([1., 1.]).",
    ),
}


@pytest.mark.parametrize(("make", "error", "text"), WRITTEN.values(), ids=WRITTEN.keys())
def test_what_is_no_cell(make, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        make()


def test_names_of_the_first_two_are_free():
    layer = Recurrent(cell(gates="a")(lambda u, W, x: tanh(u.a + W.a(x))), I, H)
    assert layer.plan(torch.randn(5, B, I)).driver != "eager"


ALL = "Gates, of which each gate is one, as a.a"
STATE = "<lambda> must return its new state h, a tensor."
STATES = "<lambda> must return a tuple of its new states (h, c)."
RETURNED = {
    "a list": (lambda x, R, h, c: [h, c], TypeError, f"{STATES} Got a list"),
    "a list of one": (lambda x, R, h: [h], TypeError, f"{STATE} Got a list"),
    "a dict": (lambda x, R, h: {"h": h}, TypeError, f"{STATE} Got a dict"),
    "too many": (lambda x, R, h: (h, h), ValueError, f"{STATE} Got 2 values"),
    "too few": (lambda x, R, h, c: h, ValueError, f"{STATES} Got 1 value"),
    "nothing": (lambda x, R, h: None, TypeError, "new state h of <lambda> must be a tensor. Got NoneType"),
    "all gates": (lambda x, R, h: x + R(h), TypeError, "new state h of <lambda> must be a tensor. Got " + ALL),
}


@pytest.mark.parametrize(("equations", "error", "text"), RETURNED.values(), ids=RETURNED.keys())
def test_what_equations_return(equations, error, text):
    unit = cell(gates="a")(equations)
    where = re.escape(f" ({__file__}, line {inspect.getsourcelines(equations)[1]})")
    with pytest.raises(error, match=rf"{re.escape(text)}{where}\.$"):
        Recurrent(unit, I, H)(torch.randn(5, B, I))
    assert re.search(f"{re.escape(text)}{where}$", unit.refusal)


def test_a_gate_that_nothing_uses_is_told_of():
    """Its rows of the weights would be there, and do nothing: another name was meant, most likely."""
    unit = cell(gates="i f")(lambda x, R, h: tanh(x.i + R.i(h)) + 0 * h)
    line = inspect.getsourcelines(unit.equations)[1]
    message = (
        "each gate of <lambda> should be used, as x.f or R.f(v). Got f in no new state, so that rows of the weights do "
        f"nothing ({__file__}, line {line})."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert unit.refusal == ""


@pytest.mark.parametrize(
    "equations",
    [
        lambda x, R, h: tanh(x.i + R.i(h)) * torch.sigmoid(x.f),
        lambda x, R, h: tanh(x.i + R.i(h)) * torch.sigmoid(R.f(h)),
        lambda x, R, h: tanh(x.i + R.i(torch.sigmoid(R.f(h)))),
    ],
    ids=["its x alone", "its product alone", "in what a product multiplies"],
)
def test_a_gate_that_is_used_in_part_is_not(equations):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cell(gates="i f")(equations).refusal == ""


def test_one_unit_is_no_state():
    unit = cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h))[:, :1])
    with pytest.raises(ValueError, match=r"must have shape \(3, 6\). Got \(3, 1\) \(.*test_refusals.py, line \d+\).$"):
        Recurrent(unit, I, H)(torch.randn(5, B, I))


def test_the_line_is_that_of_the_equation():
    """The innermost that a person wrote, in a function that the equations call too."""

    def helper(v):
        v = v * 2
        return torch.cumsum(v, -1)

    def calling(x, R, h):
        a = x.a + R.a(h)
        return helper(a)

    def raising(x, R, h):
        a = x.a + R.a(h)
        return a + x.b

    def whole(x, R, h):
        a = R.a(h)
        return a - a.mean()

    def outside(x, R, h):
        return h * TENSOR

    first = {each: inspect.getsourcelines(each)[1] for each in (helper, calling, raising, whole, outside)}
    for equations, line, text in (
        (calling, first[helper] + 2, "Got cumsum, which can't be translated"),
        (raising, first[raising] + 2, "Got AttributeError: a gate must be one of a. Got b"),
        (whole, first[whole] + 2, "Got mean with neither"),
        (outside, first[outside], "use TENSOR from outside, a tensor"),
    ):
        refusal = cell(gates="a")(equations).refusal
        assert text in refusal
        assert refusal.endswith(f" ({__file__}, line {line})")


TENSOR = torch.ones(3)


def test_drivers_say_it_once_and_in_short():
    unit = cell(gates="a")(lambda x, R, h: torch.softmax(x.a + R.a(h), -1))
    with pytest.raises(RuntimeError) as error:
        Recurrent(unit, I, H, driver="llvm")(torch.randn(5, B, I))
    text = str(error.value)
    assert text.startswith("driver llvm can't run this call: an operator in a cell must be one that")
    assert "Got softmax, which can't be translated" in text
    assert "logical_and" not in text

"""Inputs beside the gates, as cells declare them and equations and drivers have them."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from torch import nn, sigmoid, tanh
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, cell, find_cell
from gatefuse.kernels.drivers import DRIVERS, driver, eager
from gatefuse.kernels.task import Request
from tests.support.cells_with_inputs import aging, scored
from tests.support.oracle import check, make_task

OPTIONS = {
    "plain": {},
    "masks": {"lengths": True, "resets": True, "fresh": True, "reverse": True, "all_states": True, "bias": False},
}


@cell(gates="i f g o", inputs="a")
def unpacked(x, R, h, c):
    i, f, g, o = sigmoid(x + R(h))  # all gates at once, which an input is none of
    c = f * c + x.a * i * (2 * g - 1)
    return o * tanh(c), c


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cell", [scored, aging, unpacked], ids=lambda cell: cell.name)
@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in ("eager", "vendor")])
def test_every_driver(name, cell, options):
    if why := driver(name).refusal(Request(cell, torch.device("cpu"), torch.float32, 4, 3, 7)):
        pytest.skip(why)
    check(driver(name), make_task(cell, 4, 3, 7, **options), torch.float32)


@pytest.fixture
def beside_nothing():
    """All gates are sums of x and R, as where x holds nothing beside them."""

    @cell(gates="f n", inputs="a left")
    def unused(x, R, h):
        f, n = x + R(h)
        return sigmoid(f) * h + tanh(n)

    with pytest.warns(UserWarning, match="Got a, left in no new state"):
        unused.current()
    return unused


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in ("eager", "vendor")])
def test_inputs_that_no_new_state_uses_change_nothing(beside_nothing, name, options):
    if why := driver(name).refusal(Request(beside_nothing, torch.device("cpu"), torch.float32, 4, 3, 7)):
        pytest.skip(why)
    check(driver(name), make_task(beside_nothing, 4, 3, 7, **options), torch.float32)


def test_what_is_declared():
    assert aging.inputs == ("age", "left")
    assert aging.input_gates == ("i", "f", "g")
    assert aging.x_blocks == ("i", "f", "g", "age", "left")
    assert find_cell("lstm").inputs == ()
    assert [slot.name for slot in scored.program.slots] == ["a_u", "a_n", "x_a"]
    assert "x_a" in gatefuse.source(scored)


def test_an_input_is_a_part_of_the_key():
    def equations(x, R, h):
        return tanh(x.a + R.a(h))

    plain, other = cell(gates="a")(equations), cell(gates="a", inputs="b")(equations)
    with pytest.warns(UserWarning, match=r"each input of equations should be used, as x\.b\. Got b in no new state"):
        assert plain.key != other.key


WRONG = {
    "a list": (["a"], TypeError, "inputs must be names in one text, separated by blanks, such as \"age\". Got ['a']."),
    "no name": ("2a", ValueError, "an input of equations must be a name without a leading underscore. Got '2a'."),
    "commas": ("a, b", ValueError, "an input of equations must be a name without a leading underscore. Got 'a,'."),
    "a gate": ("n", ValueError, "an input of equations must not be named as a gate (u, n). Got n."),
    "twice": ("a b a", ValueError, "the inputs of equations must differ. Got a twice."),
    "taken": ("p", ValueError, "the name that generated code gives to an input. Got x_p beside p."),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_names_that_are_of_no_use(wrong):
    def equations(x, R, h, *, x_p):
        return h

    inputs, kind, text = WRONG[wrong]
    with pytest.raises(kind, match=re.escape(text)):
        cell(gates="u n", inputs=inputs)(equations)


def failing(equations, text):
    """The equations are refused, with their file and line, and no call of theirs gives a number."""
    own = cell(gates="u", inputs="a")(equations)
    assert text in own.refusal, own.refusal
    assert re.search(r"test_inputs\.py, line \d+\)", own.refusal)
    with pytest.raises((AttributeError, TypeError)):
        Recurrent(own, 2, 3)(torch.zeros(2, 1, 2), inputs={"a": torch.zeros(2, 1)})


def test_what_an_input_is_not():
    failing(lambda x, R, h: tanh(x.u + R.a(h)), "a gate of R must be one of u. Got a")
    failing(lambda x, R, h: tanh((x + R(h)).a), "a gate must be one of u. Got a")
    failing(lambda x, R, h: tanh(x.b + R.u(h)), "what is asked of x must be a gate or an input, one of u, a. Got b")


def test_a_task_has_its_cells_inputs():
    task = make_task(scored, 2, 1, 3)
    for given in ((), task.inputs * 2):
        with pytest.raises(ValueError, match=r"a task must have the inputs of scored \(a\)\. Got \d\."):
            eager.run(task.__class__(scored, task.x, task.states, task.weights, inputs=given))


def test_equations_that_cannot_be_translated_run_with_inputs():
    @cell(gates="u", inputs="a")
    def mixing(x, R, h):
        return torch.softmax(x.a * (x.u + R.u(h)), -1)

    layer, x, a = Recurrent(mixing, 2, 3), torch.randn(4, 2, 2), torch.rand(4, 2, requires_grad=True)
    assert layer.plan(x, inputs={"a": a}).driver == "eager"
    layer(x, inputs={"a": a})[0].square().sum().backward()
    assert a.grad.abs().sum() > 0


def test_an_input_without_a_gradient_has_zeros():
    """Compared alone, as a mask is; every driver says so."""

    @cell(gates="u", inputs="mask")
    def masked(x, R, h):
        return torch.where(x.mask > 0.5, tanh(x.u + R.u(h)), h)

    x = torch.randn(4, 2, 2, dtype=torch.float64)
    mask = (torch.rand(4, 2, dtype=torch.float64) > 0.5).double().requires_grad_()
    layer = Recurrent(masked, 2, 3, dtype=torch.float64)
    for layer.driver in ("eager", "script", "aten", "llvm"):
        layer(x, inputs={"mask": mask})[0].sum().backward()
        assert_close(mask.grad, torch.zeros_like(mask))


def test_cells_are_pickled_by_reference():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(aging, protocol)) is aging


def test_float64_gradients_of_a_layer_of_torchs_modules_around_it():
    """A score that a network gives has the gradient of the network."""
    torch.manual_seed(0)
    layer, scores = Recurrent(scored, 2, 3, dtype=torch.float64), nn.Linear(2, 1, dtype=torch.float64)
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: layer(x, inputs={"a": sigmoid(scores(x))})[0], x)

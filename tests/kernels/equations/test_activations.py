"""Activations of torch.nn.functional within equations: values and gradients are torch's, in every driver."""

import math

import pytest
import torch
from torch import nn, sigmoid
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, cell
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.task import Request
from tests.kernels.equations.agreement import agree
from tests.support.oracle import check, make_task

F = nn.functional
FUNCTIONS = {
    "softplus": F.softplus,
    "softplus, sharp": lambda v: F.softplus(v, beta=3.0, threshold=2.0),
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu by tanh": lambda v: F.gelu(v, approximate="tanh"),
    "elu": F.elu,
    "elu, alpha": lambda v: F.elu(v, alpha=0.3),
    "selu": F.selu,
    "celu": lambda v: F.celu(v, alpha=0.7),
    "leaky_relu": F.leaky_relu,
    "leaky_relu, steep": lambda v: F.leaky_relu(v, 0.4),
    "hardtanh": F.hardtanh,
    "hardtanh, bounds": lambda v: F.hardtanh(v, -0.2, 0.4),
    "relu6": lambda v: F.relu6(10 * v),
    "hardsigmoid": lambda v: F.hardsigmoid(6 * v),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "floor": lambda v: torch.floor(3 * v) + v,
    "remainder": lambda v: v % 0.7,
    "remainder, negative": lambda v: torch.remainder(v, -2.5),
    "remainder of a value": lambda v: torch.remainder(0.3 - v, 1.5 + v * v),
    "division, rounded": lambda v: v * torch.div(v, 0.7, rounding_mode="floor"),
    "division of two, rounded": lambda v: v + torch.div(0.3 - v, 1.5 + v * v, rounding_mode="floor"),
}
# Borders of the functions among them.
VALUES = [0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 0.4, -0.2, 2 / 3, 20.0, 50.0, -50.0, 800.0, -800.0]
EDGES = [math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_plain_loop_agrees(name):
    function = FUNCTIONS[name]
    agree(cell(gates="a b")(lambda x, R, h: function(x.a + R.a(h)) * sigmoid(x.b + R.b(h))))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("by", ["aten", "llvm", "script"])
def test_at_borders_values_and_gradients_are_torch_s(name, by):
    """A cell that is the function of its state alone, from states at the borders; one step."""
    function = FUNCTIONS[name]
    unit = cell(gates="a")(lambda x, R, h: function(h) + 0 * x.a)
    layer = Recurrent(unit, 1, len(VALUES) + len(EDGES), driver=by, dtype=torch.float64)
    state = torch.tensor([[VALUES + EDGES]], dtype=torch.float64, requires_grad=True)
    x = torch.zeros(1, 1, 1, dtype=torch.float64)
    output, _ = layer(x, state)
    expected = function(state)
    assert_close(output, expected, equal_nan=True)
    n = len(VALUES)  # what torch's own gradient is at infinity isn't told
    found, truth = (torch.autograd.grad(v[..., :n].sum(), state)[0][..., :n] for v in (output, expected))
    assert_close(found, truth)


@cell(gates="a b c")
def many(x, R, h, *, p):
    a = F.silu(x.a + R.a(h)) - F.gelu(x.b + R.b(h), approximate="tanh")
    return F.elu(a) * F.hardsigmoid(h) + F.softplus(x.c + R.c(h)) * p + F.leaky_relu(h) * 0.1 + F.relu6(torch.floor(a))


@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in ("eager", "vendor")])
def test_every_driver(name):
    if why := driver(name).refusal(Request(many, torch.device("cpu"), torch.float32, 4, 3, 6)):
        pytest.skip(why)
    check(driver(name), make_task(many, 4, 3, 6), torch.float32)


def test_they_are_on_the_list():
    assert {"softplus", "silu", "gelu", "elu", "leaky_relu", "hardtanh", "hardsigmoid", "floor"} <= set(
        gatefuse.operator_names()
    )


def test_an_operator_that_is_none_is_refused_by_name():
    refused = cell(gates="a")(lambda x, R, h: torch.fmod(x.a + R.a(h), 2.0)).refusal
    assert "Got fmod, which can't be translated" in refused


@pytest.mark.parametrize("name", ["llvm", "step", "block", "grid"])
@pytest.mark.parametrize("divisor", [0.7, -3.0, 1e-3, 1e30, math.inf, -math.inf, 0.0])
def test_remainders_are_exact(name, divisor):
    unit = cell(gates="a")(lambda x, R, h: torch.remainder(h, divisor) + 0 * x.a)
    if why := driver(name).refusal(Request(unit, torch.device("cpu"), torch.float32, 1, 1, 16)):
        pytest.skip(why)
    near = [divisor * k for k in (1.0, 2.0, 3.0, -7.0)] if 0 < abs(divisor) < 1e20 else [5.0, -5.0, 0.5, -0.5]
    values = torch.tensor([0.0, -0.0, 0.1, -0.1, 2.5, -2.5, 1e3, -1e3, 12345.678, 1e-20, *near, math.inf, math.nan])
    layer = Recurrent(unit, 1, len(values), driver=name)
    with torch.no_grad():
        output, _ = layer(torch.zeros(1, 1, 1), values.view(1, 1, -1))
    found, expected = output[0, 0], torch.remainder(values, divisor)
    assert torch.equal(found.isnan(), expected.isnan())
    if name == "llvm":
        assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    # Triton's interpreter fuses nothing: a product of the divisor is rounded, and what is left may be a whole one.
    off = (found - expected).abs()[:-2]
    allowed = torch.finfo(torch.float32).eps * values.abs()[:-2]
    assert ((off <= allowed) | ((off - abs(divisor)).abs() <= allowed) | ~off.isfinite()).all()
    assert torch.equal(found.isinf(), expected.isinf())

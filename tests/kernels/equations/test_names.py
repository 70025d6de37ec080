"""Names and shapes of what equations are given: states, gates and parameters may have any."""

from __future__ import annotations

import pytest
import torch
from torch import nn, sigmoid, tanh
from torch.testing import assert_close

from gatefuse import Recurrent, cell
from tests.kernels.equations.agreement import STEPS, B, H, I, agree


@pytest.mark.parametrize("driver", ["aten", "llvm", "script"])
@pytest.mark.parametrize(
    "names",
    [
        ("h", "new_h"),
        ("h", "t0"),
        ("old_c", "c"),
        ("part_0", "seq_h"),
        ("sum_0", "in_0"),
        ("tanh_a", "tanh_h"),
        ("h", "h_"),
    ],
    ids=" ".join,
)
def test_names_of_states_are_free(driver, names):
    first, second = names
    text = f"""
def named(x, R, {first}, {second}, *, weight_0, x_0, no_bias):
    q = sigmoid({first}) * {first}
    new = tanh(x.a + R.a(q * q) + q * x_0) + weight_0 * tanh(R.b({second}))
    return new, tanh(q + 0.5 * {second}) * no_bias
"""
    space = {"tanh": tanh, "sigmoid": sigmoid}
    exec(text, space)
    layer = Recurrent(cell(gates="a b")(space["named"]), I, H, dtype=torch.float64)
    x = torch.randn(6, B, I, dtype=torch.float64)
    expected, (a, b) = layer(x)
    layer.driver = driver
    output, (c, d) = layer(x)
    assert_close((output, c, d), (expected, a, b))


def test_parameters_have_their_shape_at_every_length():
    @cell(gates="a")
    def scaled(x, R, h, *, p):
        return tanh(x.a + R.a(h)) * p

    layer = Recurrent(scaled, I, H)
    layer.p_l0 = nn.Parameter(torch.ones(2, H))
    for T in STEPS:
        with pytest.raises(ValueError, match=r"^parameter.* must have shape \(.*5,?\)\. Got \("):
            layer(torch.randn(T, B, I))
        with torch.no_grad(), pytest.raises(ValueError, match=r"^parameter.* must have shape \(.*5,?\)\. Got \("):
            layer(torch.randn(T, B, I))
    assert "must not ask for a size" in cell(gates="a")(parameter_rank).refusal


def parameter_rank(x, R, h, *, p):
    return tanh(x.a + R.a(h)) * p.dim()


def test_gates_may_be_named_as_states_and_parameters():
    agree(cell(gates="h")(lambda x, R, h: tanh(x.h + R.h(h))))
    agree(cell(gates="a h")(lambda x, R, h: tanh(x.h + R.h(sigmoid(x.a + R.a(h)) * h))))
    two = cell(gates="h v")(lambda x, R, v: tanh(x.h + R.h(v)) + sigmoid(x.v + R.v(v)))
    agree(two)
    assert [p.gates for p in two.program.products] == [(0, 1)]

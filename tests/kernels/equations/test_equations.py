"""Equations that leave the rules: every driver gives their numbers, or says why it doesn't run them."""

from __future__ import annotations

import pytest
import torch
from torch import nn, relu, tanh

from gatefuse import Recurrent, cell
from tests.kernels.equations.agreement import DRIVERS, B, H, I, agree


def test_sizes_are_those_of_the_call():
    for equations in (
        lambda x, R, h: tanh(x.a + R.a(h) * h.shape[-1] ** -0.5),
        lambda x, R, h: tanh(x.a + R.a(h)) if h.size(1) > 4 else relu(x.a + R.a(h)),
        lambda x, R, h: tanh(x.a + R.a(h)) / len(h),
        lambda x, R, h: tanh(x.a + R.a(h)) / h.numel(),
    ):
        agree(cell(gates="a")(equations), refused="must not ask for a size, which a trace would keep")


def test_a_dtype_is_asked_for_where_it_makes_no_difference():
    agree(cell(gates="a")(lambda x, R, h: tanh(x.a + R.a((h > 0).to(h.dtype)))))
    agree(cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h)) * (h > 0).type_as(h)))
    of_dtype = cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h) + 1e6 * torch.finfo(h.dtype).eps))
    agree(of_dtype, refused="must be the same in every dtype")
    by_dtype = cell(gates="a")(lambda x, R, h: tanh(x.a) if h.dtype == torch.float64 else relu(x.a + R.a(h)))
    agree(by_dtype, refused="must be the same in every dtype")
    agree(cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h).float())), refused="of the states' dtype")


def test_numbers_of_a_layer_of_its_own_or_a_product():
    norm, weight = nn.LayerNorm(H, dtype=torch.float64), torch.randn(H, H, dtype=torch.float64)
    agree(cell(gates="a")(lambda x, R, h: tanh(norm(x.a + R.a(h)))), refused="use norm from outside, a module")
    agree(cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h) + h @ weight)), refused="use weight from outside")
    agree(cell(gates="a")(lambda x, R, h: tanh((x.a + R.a(h)).view(B, 1, -1).flatten(1))), refused="Got view")
    one_size = cell(gates="a")(lambda x, R, h: tanh((x.a + R.a(h)).view(-1, 5, 1).flatten(1)))
    agree(one_size, refused="must run on states of shape (2, 3) as on any other. Got RuntimeError: shape")

    names = {"tanh": tanh, "H": H}  # as text, since pytest rewrites an assert
    exec("def checked(x, R, h):\n    assert h.shape[-1] == H\n    return tanh(x.a + R.a(h))", names)
    agree(cell(gates="a")(names["checked"]), refused="on states of shape (2, 3) as on any other. Got AssertionError")


def test_errors_of_all_kinds_are_reasons():
    @cell(gates="a")
    def broken(x, R, h):
        return {}["nowhere"]

    assert "must run on states of shape (2, 3) as on any other. Got KeyError: 'nowhere'" in broken.refusal
    with pytest.raises(KeyError, match="nowhere"):
        Recurrent(broken, I, H)(torch.randn(3, B, I))


def test_what_equations_catch_is_refused_all_the_same():
    def branching(x, R, h):
        a = x.a + R.a(h)
        try:
            return tanh(a) if h.sum() > 0 else relu(a)
        except:  # noqa: E722
            return a * 0.5

    def sizing(x, R, h):
        a = x.a + R.a(h)
        try:
            return tanh(a) * h.shape[-1] ** -0.5
        except:  # noqa: E722
            return a * 0.5

    agree(cell(gates="a")(branching), refused="must reduce over the units and keep the dimension")
    agree(cell(gates="a")(sizing), refused="must not ask for a size")


def test_constants_are_those_of_the_dtype():
    logarithm = cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h)) + torch.log(torch.full_like(h, 1e-50)) * 0.001)
    rounded = cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h)) / ((torch.ones_like(h) + 1e-9 - 1) * 1e9 + 1))
    for unit in (logarithm, rounded):
        assert "must be the same in every dtype" in unit.refusal


def test_zero_times_infinity_is_no_number_in_any_driver():
    zero = 0.0
    unit = cell(gates="a b")(lambda x, R, h: tanh(x.a + R.a(h)) + zero * torch.exp(x.b) * torch.exp(x.b))
    layer, x = Recurrent(unit, I, H), torch.randn(20, B, I)
    x[3] = 1e3
    layer.weight_ih_l0.detach().abs_()  # so that some are infinite, however they were drawn
    found = {}
    for driver in DRIVERS:
        layer.driver = driver
        found[driver] = layer(x)[0].isnan()
    assert found["eager"].any()
    assert all(torch.equal(found["eager"], each) for each in found.values())


def test_truths_may_be_constant_and_numbers_truths():
    for equations in (
        lambda x, R, h: torch.where((h > 0) | (torch.zeros_like(h) > 1), tanh(x.a + R.a(h)), x.a),
        lambda x, R, h: torch.where(torch.ones_like(h) > 0, tanh(x.a + R.a(h)), x.a),
        lambda x, R, h: torch.where(torch.logical_or(relu(h), h * 0), tanh(x.a + R.a(h)), x.a),
        lambda x, R, h: tanh(x.a + R.a(h)) * torch.logical_not(torch.zeros_like(h) > 1),
    ):
        agree(cell(gates="a")(equations))

"""Gradients of equations: where they stop, are shared, or reach nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn, relu, sigmoid, tanh

from gatefuse import Recurrent, cell
from tests.kernels.equations.agreement import STEPS, B, H, I, agree


def test_gradients_stop_where_they_are_stopped():
    def truncated(x, R, h):
        return tanh(x.a + R.a(h.detach()))

    def spiking(x, R, v):
        g = sigmoid(4 * (v - 0.5))
        s = (v > 0.5).float() + g - g.detach()
        return 0.9 * v + x.a + R.a(s) - 0.5 * s.detach()

    def frozen(x, R, h):
        with torch.no_grad():
            g = sigmoid(x.a)
        return g * tanh(R.a(h))

    def through_data(x, R, h):
        return tanh(x.a + R.a(h)) + 0.5 * h.data

    def frozen_product(x, R, h):
        with torch.no_grad():
            r = R.a(h)
        return tanh(x.a + r) * 0.5 + 0.5 * h

    for equations in (truncated, spiking, frozen, through_data, frozen_product):
        agree(cell(gates="a")(equations))


def test_looking_at_a_gate_changes_nothing():
    @cell(gates="a b")
    def looked_at(x, R, h):
        a = x + R(h)
        with torch.no_grad():
            a.a.abs()
            R.b(h)
        return tanh(a.a) * sigmoid(a.b)

    layer = Recurrent(looked_at, I, H, driver="eager")
    layer(torch.randn(3, B, I))[0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_ties_share_the_gradient_as_torch_has_it():
    zero = 0.0
    agree(cell(gates="a")(lambda x, R, h: tanh(torch.maximum(h * 0, torch.tensor(zero)) + x.a + R.a(h))))
    agree(cell(gates="a")(lambda x, R, h: tanh(torch.maximum(relu(h), torch.tensor(0.0)) + x.a + R.a(h))))
    agree(cell(gates="a")(lambda x, R, h: tanh(relu(h).clamp(min=0.0) + x.a + R.a(h))))
    agree(cell(gates="a")(lambda x, R, h: tanh(torch.clamp(relu(h), min=relu(h * 2)) + x.a + R.a(h))))


def test_learned_numbers_from_outside_learn():
    scale = nn.Parameter(torch.tensor(0.5))

    @cell(gates="a")
    def scaled(x, R, h):
        return tanh((x.a + R.a(h)) * scale)

    for T in STEPS:
        scale.grad = None
        Recurrent(scaled, I, H)(torch.randn(T, B, I))[0].sum().backward()
        assert scale.grad is not None


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm", "script"])
@pytest.mark.parametrize("T", STEPS)
def test_weights_that_take_no_part_have_zero_gradients(driver, T):
    @cell(gates="z n")
    def mingru(x, R, h, *, unused):
        z = sigmoid(x.z)
        return (1 - z) * h + z * tanh(x.n)

    @cell(gates="a")
    def still(x, R, h):
        return 0.5 * h + R.a(h).detach()

    for unit in (mingru, still):
        layer = Recurrent(unit, I, H, driver=driver)
        layer(torch.randn(T, B, I))[0].sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
        assert not layer.weight_hh_l0.grad.any()


def test_weights_have_zero_gradients_where_nobody_knows_what_takes_part():
    norm = nn.LayerNorm(H)

    @cell(gates="a b")
    def unknown(x, R, h, *, unused):
        return norm(tanh(x.a + h))

    layer = Recurrent(unknown, I, H)
    layer(torch.randn(3, B, I))[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert torch.isfinite(layer.weight_ih_l0.grad).all()

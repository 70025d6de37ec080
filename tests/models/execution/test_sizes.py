"""Layers with values of several sizes through torch's compiler, exporters, transforms and casts."""

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import gatefuse
from gatefuse import Recurrent
from tests.support.layers import gradients
from tests.support.sized_cells import CELLS, UNITS

T, B, I, H = 6, 4, 3, 5
DOUBLE = {"dtype": torch.float64}


def made(name, **options):
    return Recurrent(CELLS[name], I, H, sizes=UNITS[name], **options)


@pytest.mark.parametrize("name", ["scrn", "legendre"])
def test_compiled_and_exported_by_torch(name):
    layer = made(name, num_layers=2, bidirectional=True, **DOUBLE)
    x = torch.randn(T, B, I, **DOUBLE)
    found, expected = torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x)
    assert_close(found, expected)
    leaves = list(layer.parameters())
    assert_close(gradients(found, leaves), gradients(expected, leaves))
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: Dim.DYNAMIC, 1: Dim.DYNAMIC},)).module()
    longer = torch.randn(9, 2, I, **DOUBLE)
    assert_close(program(longer), layer(longer))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_by_torchscript():
    layer = made("scrn", num_layers=2, **DOUBLE)
    with torch.no_grad():
        traced = torch.jit.trace(layer, (torch.randn(T, B, I, **DOUBLE),), check_trace=False)
        longer = torch.randn(9, 2, I, **DOUBLE)
        assert_close(traced(longer), layer(longer))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["scrn", "projected_lstm", "legendre"])
def test_scripted(name):
    """A copy in TorchScript, with the layer's parameters, and states of their own sizes."""
    layer = made(name, num_layers=2, bidirectional=True, batch_first=True, **DOUBLE)
    script = gatefuse.scripted(layer)
    assert {n: tuple(p.shape) for n, p in script.named_parameters()} == {
        n: tuple(p.shape) for n, p in layer.named_parameters()
    }
    x, lengths, resets = torch.randn(B, T, I, **DOUBLE), torch.tensor([T, 0, 2, 5]), torch.rand(B, T) < 0.4
    states, fresh = (
        tuple([torch.rand(4, B, layer._sized.of(state), **DOUBLE) for state in layer.cell.states]) for _ in range(2)
    )
    for options in ({}, {"lengths": lengths}, {"lengths": lengths, "resets": resets, "reset_state": fresh}):
        for state in (None, states):
            found, expected = script(x, state, **options), layer(x, state, **options)
            assert_close(found, expected)
            ours = gradients(found, list(script.parameters()))
            assert_close(ours, gradients(expected, list(layer.parameters())))
    with pytest.raises(torch.jit.Error, match="a state must have shape"):
        script(x, tuple([torch.zeros(4, B, 9, **DOUBLE)] * 2))


@pytest.mark.parametrize("name", ["scrn", "projected_lstm"])
def test_transforms(name):
    layer = made(name, **DOUBLE)
    xs = torch.randn(3, T, B, I, **DOUBLE)
    assert_close(torch.vmap(lambda x: layer(x)[0])(xs), torch.stack([layer(x)[0] for x in xs]))
    weights = dict(layer.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(layer, weights, (x,))[0].square().sum()

    each = torch.vmap(torch.func.grad(loss), (None, 0))(weights, xs)
    for k, x in enumerate(xs):
        expected = torch.autograd.grad(layer(x)[0].square().sum(), list(weights.values()))
        assert_close([each[name][k] for name in weights], list(expected))


def test_second_derivatives():
    layer = Recurrent(CELLS["legendre"], 2, 3, sizes={"memory": 4, "one": 1}, **DOUBLE)
    names = list(dict(layer.named_parameters()))

    def call(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))[0]

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    leaves = torch.randn(3, 1, 2, **DOUBLE, requires_grad=True), *values
    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_under_autocast():
    layer = made("scrn", num_layers=2)
    x = torch.randn(T, B, I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)[0]
        within, _ = layer(x, lengths=[T, 0, 2, 5])
    expected = layer(x)[0]
    assert found.dtype == within.dtype == torch.bfloat16
    assert_close(found.float(), expected, rtol=0.1, atol=0.05)
    assert_close(within[:, 0], found[:, 0], rtol=0.1, atol=0.05)


def test_flops_are_those_of_what_is_run():
    """All values with as many units as the most have."""
    layer, x = made("scrn", driver="eager"), torch.randn(T, B, I)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    assert counter.get_total_flops() == 2 * T * B * (2 * H * I + 2 * H * H)


def test_warmup_recorded_calls_and_parametrizations():
    layer = made("scrn", num_layers=2)
    assert gatefuse.warmup(layer, T, B).reason.startswith(f"with {H} units of all sizes, ")
    x = torch.randn(T, B, I)
    assert_close(torch.fx.symbolic_trace(nn.Sequential(layer))(x), layer(x))
    normed = nn.utils.parametrizations.weight_norm(copy.deepcopy(layer), "weight_hh_slow_l0")
    assert_close(normed(x), layer(x))
    assert "legendre" in gatefuse.source(CELLS["legendre"])

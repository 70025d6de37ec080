"""Derivatives of every shipped cell against finite differences, first and second, in float64; none where none come."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from gatefuse import Recurrent, cell_names
from gatefuse.kernels.loops.registry import KERNELS
from tests.support.layers import beside

T, B, I, H = 2, 2, 1, 2
DOUBLE = {"dtype": torch.float64}


def checked(layer, resets=False, **options):
    """gradcheck's function and inputs: x, first states, states that resets begin with, all parameters."""
    S = len(layer.cell.states)
    rows = layer.num_layers * (1 + layer.bidirectional)
    # positive, as a normalizer (slstm's n) is in use
    states = [torch.rand(rows, B, H, **DOUBLE) + 0.5 for _ in range(2 * S if resets else S)]
    # of a bias without rows torch's check can make no difference
    found = {name: p.detach().clone() for name, p in layer.named_parameters() if p.numel()}
    inputs, names = [torch.randn(T, B, I, **DOUBLE), *states, *found.values()], list(found)
    options |= beside(layer.cell, T, B, **DOUBLE)
    if resets:
        options["resets"] = torch.tensor([[True, False], [False, True]])

    def form(states):
        return tuple(states) if S > 1 else states[0]

    def call(x, *values):
        first, fresh, weights = values[:S], values[S : len(states)], values[len(states) :]
        if fresh:
            options["reset_state"] = form(fresh)
        output, finals = functional_call(layer, dict(zip(names, weights, strict=True)), (x, form(first)), options)
        return (output, *finals) if S > 1 else (output, finals)

    return call, tuple(v.requires_grad_() for v in inputs)


@pytest.mark.parametrize("cell", cell_names())
def test_every_cell(cell):
    torch.manual_seed(0)
    call, inputs = checked(Recurrent(cell, I, H, driver="eager", **DOUBLE))
    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first"])
def test_lengths_resets_layers_and_directions(cell):
    torch.manual_seed(0)
    layer = Recurrent(cell, I, H, 2, bidirectional=True, driver="eager", **DOUBLE)
    call, inputs = checked(layer, resets=True, lengths=torch.tensor([T, 1]))
    assert gradcheck(call, inputs, fast_mode=True)
    assert gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("driver", ["vendor", "script", "aten", "llvm"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_gradients_of_gradients_on_a_cpu(cell, driver):
    """A gradient penalty, as WGAN-GP has: torch's own loop has second derivatives there, which cuDNN has not."""
    layer = Recurrent(cell, 3, 4, 2, driver=driver)
    oracle = Recurrent(cell, 3, 4, 2, driver="eager")
    oracle.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3, 3, requires_grad=True)
    found = []
    for module in (layer, oracle):
        (slope,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
        leaves = [x, *(p for name, p in module.named_parameters() if "weight" in name)]
        found.append(torch.autograd.grad(slope.square().sum(), leaves))
    torch.testing.assert_close(*found)


class Nothing(torch.autograd.Function):
    """What follows a layer, and has no gradient for it."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("driver", ["vendor", "aten", "llvm", "eager", "step", "block", "grid"])
def test_where_nothing_comes_back_no_gradient_does(driver, create_graph):
    device = "cuda" if driver in KERNELS and torch.cuda.is_available() else "cpu"
    layer = Recurrent("lstm", I, H, 2, driver=driver, device=device)
    for lengths in (None, [2, 1]):
        x = torch.randn(T, B, I, device=device, requires_grad=True)
        output, _ = layer(x, lengths=lengths)
        leaves = [x, *layer.parameters()]
        found = torch.autograd.grad(Nothing.apply(output).sum(), leaves, create_graph=create_graph, allow_unused=True)
        assert found == (None,) * len(leaves)

"""The scripted loop in whatever mode a call runs, and after calls in others."""

from itertools import permutations

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from gatefuse import Recurrent, cell_names, find_cell
from tests.support.layers import beside, flat

T, B, I, H = 5, 2, 3, 4


@pytest.mark.parametrize("modes", ["tttiii", "tttIII", "tttNNN", "tttFFF", "iiittt", "nnnttt", "IIIttt", "titnIttn"])
@pytest.mark.parametrize("cell", cell_names())
def test_modes_in_any_order(cell, modes):
    """t: training; n: without gradients; i: in inference mode; capitals: of a tensor that was made there; F: frozen."""
    find_cell(cell).current().made.clear()
    layer, oracle = (Recurrent(cell, I, H, driver=driver, dtype=torch.float64) for driver in ("script", "eager"))
    oracle.load_state_dict(layer.state_dict())
    x, given = torch.randn(T, B, I, dtype=torch.float64), beside(cell, T, B, dtype=torch.float64)
    with torch.inference_mode():
        made_there = x.clone()
    expected = oracle(x, **given)
    trained = torch.autograd.grad(expected[0].sum(), list(oracle.parameters()))
    for mode in modes:
        layer.requires_grad_(mode != "F")
        if mode == "t":
            found = layer(x, **given)
            assert_close(torch.autograd.grad(found[0].sum(), list(layer.parameters())), trained)
        else:
            with torch.inference_mode(mode in "iI"), torch.set_grad_enabled(mode == "F"):
                found = layer(made_there if mode.isupper() else x, **given)
        assert_close(flat(found), flat(expected))


@pytest.mark.parametrize("cell", ["lstm", "minimal_gated_unit", "gru_reset_first"])
def test_weights_that_were_frozen_before(cell):
    """What wants gradients is another in each turn, and none is lost."""
    layer, oracle = (Recurrent(cell, I, H, driver=driver, dtype=torch.float64) for driver in ("script", "eager"))
    oracle.load_state_dict(layer.state_dict())
    names = [name for name, parameter in oracle.named_parameters() if parameter.numel()]
    x = torch.randn(T, B, I, dtype=torch.float64)
    for first, then in permutations(names, 2):
        find_cell(cell).current().made.clear()
        for name in (first, first, then, then):
            found = []
            for own in (layer, oracle):
                for other, parameter in own.named_parameters():
                    parameter.requires_grad_(other == name)
                found.append(torch.autograd.grad(own(x)[0].sum(), own.get_parameter(name)))
            assert_close(*found)


@pytest.mark.parametrize("calls_before", [0, 3])
@pytest.mark.parametrize("options", [{}, {"lengths": [5, 3]}, {"resets": torch.eye(T, B).bool()}])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_within_a_checkpoint(use_reentrant, options, calls_before):
    layer = Recurrent("gru", I, H, num_layers=2, driver="script", dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    for _ in range(calls_before):
        layer(x, **options)[0].sum().backward()
    expected = torch.autograd.grad(layer(x, **options)[0].square().sum(), leaves)
    for leaf in leaves:
        leaf.grad = None
    for _ in range(3):
        checkpoint(lambda x: layer(x, **options)[0], x, use_reentrant=use_reentrant).square().sum().backward()
    assert_close([leaf.grad / 3 for leaf in leaves], list(expected))


def test_saved_on_the_host():
    layer = Recurrent("gru", I, H, driver="script", dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(layer(x)[0].sum(), x)
    with torch.autograd.graph.save_on_cpu():
        for _ in range(3):
            assert_close(torch.autograd.grad(layer(x)[0].sum(), x), expected)

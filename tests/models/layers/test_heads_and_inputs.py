"""Layers with heads of cells that are given inputs beside their gates, or noise; and those that have none."""

import pytest
import torch
from torch import tanh
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent
from gatefuse.models.layers.layout import block_diagonal

T, B, I, H = 5, 4, 3, 6


@gatefuse.cell(gates="f n", inputs="age rate")
def aging(x, R, h):
    f = torch.sigmoid(x.f + R.f(h) - x.age)
    return f * h + x.rate * (1 - f) * tanh(x.n + R.n(f * h))


@pytest.fixture(params=[True, False], ids=["apart", "at once"])
def apart(request, monkeypatch):
    """Each head by itself, or all at once, whichever sizes are taken for."""
    monkeypatch.setattr("gatefuse.models.layers.base.run_apart", lambda *_: request.param)
    return request.param


def whole(layer):
    """The layer of one R with the heads' blocks, by the equations."""
    found = Recurrent(layer.cell, I, H, layer.num_layers, bidirectional=layer.bidirectional, driver="eager")
    state = {k: block_diagonal(v, layer.heads) if "weight_hh" in k else v for k, v in layer.state_dict().items()}
    found.load_state_dict(state)
    return found


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("driver", ["auto", "eager"])
@pytest.mark.parametrize("heads", [2, H])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_head_is_given_its_units_of_an_input(driver, heads, bidirectional):
    torch.manual_seed(0)
    layer = Recurrent(aging, I, H, 2, bidirectional=bidirectional, heads=heads, driver=driver)
    x, age = torch.randn(T, B, I), torch.rand(T, B, requires_grad=True)
    rate = torch.rand(1, B, H, requires_grad=True)
    results = []
    for module in (layer, whole(layer)):
        output, final = module(x, inputs={"age": age, "rate": rate})
        results.append([output, final, *torch.autograd.grad(output.square().sum() + final.sum(), [age, rate])])
    assert_close(*results)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("heads", [2, H])
def test_noise_is_drawn_for_all_heads(heads):
    torch.manual_seed(0)
    noisy = gatefuse.recurrent_dropout(gatefuse.zoneout("lstm", h=0.3, c=0.4), 0.5)
    layer = Recurrent(noisy, I, H, heads=heads)
    other, x, found = whole(layer), torch.randn(T, B, I), []
    for module in (layer, other):
        torch.manual_seed(1)
        found.append(module(x)[0])
    assert_close(*found)
    assert not layer(x)[0].allclose(found[0])
    layer.eval()
    other.eval()
    assert_close(layer(x)[0], other(x)[0])
    assert_close(layer(x)[0], layer(x)[0])


def test_cells_that_take_means_of_all_units_have_no_heads():
    layer = Recurrent("layer_norm_lstm", I, H, heads=2)
    with pytest.raises(ValueError, match=r"Got layer_norm_lstm: its equations take means of all units\.$"):
        layer(torch.randn(T, B, I))

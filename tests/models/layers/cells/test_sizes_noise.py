"""What is drawn in training where states and gates have other sizes than H: numbers of each one's own size."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gatefuse import Recurrent, cell, recurrent_dropout, zoneout
from tests.models.layers.cells.test_sizes import DOUBLE, B, H, I, T, given, made
from tests.support.layers import flat, form, gradients
from tests.support.sized_cells import CELLS, UNITS, VECTORS, by_hand


def test_dropout_between_layers():
    layer = made("projected_lstm", num_layers=2, dropout=0.5)
    first, second = made("projected_lstm"), Recurrent(CELLS["projected_lstm"], 2, H, sizes={"projected": 2}, **DOUBLE)
    for k, alone in enumerate((first, second)):
        own = {n.replace(f"_l{k}", "_l0"): p for n, p in layer.state_dict().items() if n.endswith(f"_l{k}")}
        alone.load_state_dict(own)
    x, _, _ = given(layer)
    torch.manual_seed(3)
    found, _ = layer(x)
    torch.manual_seed(3)
    assert_close(found, second(nn.functional.dropout(first(x)[0], 0.5))[0])


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm"])
def test_noise_has_the_states_sizes(driver):
    """In training each unit of a state stays by numbers of that state's own; in eval mode it is what is expected."""
    cell = zoneout(CELLS["scrn"], h=0.3, s=0.6)
    layer = Recurrent(cell, I, H, sizes={"slow": 3}, driver=driver, **DOUBLE)
    x, states = torch.randn(T, B, I, **DOUBLE), (torch.rand(1, B, H, **DOUBLE), torch.rand(1, B, 3, **DOUBLE))
    torch.manual_seed(0)
    found = layer(x, states, all_states=True)
    torch.manual_seed(0)
    keep = [(torch.rand(1, T, B, n) < p)[0] for n, p in ((H, 0.3), (3, 0.6))]
    inner = made("scrn")
    inner.load_state_dict(layer.state_dict())
    now = states
    for t in range(T):
        _, new = inner(x[t : t + 1], now)
        now = tuple([torch.where(k[t], old, n) for k, old, n in zip(keep, now, new, strict=True)])
        for sequence, s in zip(found[0], now, strict=True):
            assert_close(sequence[t], s[0])
    layer.eval()
    (h, s), _ = layer(x[:1], states, all_states=True)
    _, new = inner(x[:1], states)
    assert_close(h, 0.3 * states[0] + 0.7 * new[0])
    assert_close(s, 0.6 * states[1] + 0.4 * new[1])


def test_weight_dropout_drops_of_each_weight_of_r():
    layer = made("scrn", weight_dropout=0.5)
    x = torch.randn(T, B, I, **DOUBLE)
    dropped = made("scrn")
    torch.manual_seed(1)
    found, _ = layer(x)
    torch.manual_seed(1)
    with torch.no_grad():
        for name in ("weight_hh_l0", "weight_hh_slow_l0"):
            weight = getattr(dropped, name)
            weight.mul_((torch.rand(weight.shape) < 0.5) * 2.0)
    assert_close(found, dropped(x)[0])


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm"])
@pytest.mark.parametrize("name", ["scrn", "projected_lstm", "legendre"])
def test_recurrent_dropout_drops_units_of_each_size(name, driver):
    """As by hand with what R multiplies of a size dropped, the same units in all steps."""
    cell = recurrent_dropout(CELLS[name], 0.4)
    layer = Recurrent(cell, I, H, sizes=UNITS[name], driver=driver, **DOUBLE)
    plain = made(name)
    plain.load_state_dict(layer.state_dict())
    x, states, _ = given(plain)
    torch.manual_seed(0)
    found = layer(x, form(states), all_states=True)
    torch.manual_seed(0)
    number = {"": H, **UNITS[name]}
    sizes = dict.fromkeys(VECTORS[name].values())
    masks = {size: (torch.rand(1, 1, B, number[size]) < 0.6)[0, 0].double() / 0.6 for size in sizes}

    def product(plain, gate, v):
        return nn.functional.linear(v * masks[VECTORS[name][gate]], plain.U[gate], plain.c.get(gate))

    expected = by_hand(plain, x, states, R=product)
    assert_close(flat(found), flat(expected))
    leaves, theirs = [x, *states, *layer.parameters()], [x, *states, *plain.parameters()]
    assert_close(gradients(found, leaves), gradients(expected, theirs))


@cell(gates="a p:R", sizes={"slow": "s p"})
def adding(x, R, h, s):
    """The name of a function of torch's is that of a method which changes a set."""
    s = torch.add(torch.tanh(R.p(h)), s, alpha=0.5)
    return torch.tanh(x.a + R.a(s)), s


@pytest.mark.parametrize("driver", ["aten", "llvm"])
def test_recurrent_dropout_of_equations_that_call_torchs_add(driver):
    layer = Recurrent(recurrent_dropout(adding, 0.4), I, H, sizes={"slow": 3}, driver=driver, **DOUBLE)
    oracle = Recurrent(layer.cell, I, H, sizes={"slow": 3}, driver="eager", **DOUBLE)
    oracle.load_state_dict(layer.state_dict())
    x, found = torch.randn(T, B, I, **DOUBLE), []
    for own in (layer, oracle):
        torch.manual_seed(0)
        results = own(x)
        found.append([*flat(results), *gradients(results, list(own.parameters()))])
    assert_close(*found)

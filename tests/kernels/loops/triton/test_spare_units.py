"""Hidden units in sixteens: kernels that are given spare ones return what they return without."""

import pytest
import torch
from torch.testing import assert_close

from gatefuse import Recurrent, cell
from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.loops.triton.spare_units import padded
from tests.support.layers import beside

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DRIVERS = ("step", "block", "grid")
H, T, B = 66, 2, 3


@cell(gates="a b", init={"c": 2.0})
def quotient(x, R, h, c):
    """What a unit of zeros would make 0 / 0 of."""
    c = c * torch.sigmoid(x.a + R.a(h)) + h
    return torch.tanh(x.b + R.b(h)) * c / (x.b * x.b + h * h + c * c).sqrt(), c


def run(layer, x, **options):
    """Results, and gradients of everything."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    output, states = layer(x, **options)
    states = states if isinstance(states, tuple) else (states,)
    (output.square().sum() + sum(s.sum() for s in states)).backward()
    return [output, *states, x.grad, *[p.grad for p in layer.parameters()]]


def check(cell, driver, layers=1, bidirectional=False, **options):
    torch.manual_seed(0)
    fast, slow = (
        Recurrent(cell, 5, H, layers, bidirectional=bidirectional, driver=d, device=DEVICE) for d in (driver, "eager")
    )
    slow.load_state_dict(fast.state_dict())
    x, given = torch.randn(T, B, 5, device=DEVICE), beside(cell, T, B, dtype=torch.float32, device=DEVICE)
    assert fast.plan(x, **given).driver == driver
    options |= given
    for found, expected in zip(run(fast, x, **options), run(slow, x, **options), strict=True):
        assert_close(found, expected, atol=2e-5, rtol=2e-4)


def test_sizes():
    assert [padded(find_cell("lstm"), n) for n in (3, 20, 63, 64, 65, 72, 100, 450, 650, 1000)] == [
        3, 20, 63, 64, 80, 72, 112, 464, 656, 1000,
    ]  # fmt: skip


def test_a_mean_has_no_spare_units():
    centered = cell(gates="a")(lambda x, R, h: torch.tanh(x.a + R.a(h) - h.mean(-1, keepdim=True)))
    assert padded(centered, H) == H
    for driver in ("step", "grid"):
        check(centered, driver)


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_last_unit_may_be_infinite(driver):
    """A column of zeros would make no number of it for all units."""
    fast, slow = (Recurrent("gru_reset_first", 5, H, driver=d, device=DEVICE) for d in (driver, "eager"))
    slow.load_state_dict(fast.state_dict())
    with torch.no_grad():
        for layer in (fast, slow):
            layer.weight_hh_l0[:, -1] = layer.weight_hh_l0[:, -1].abs()
    h = torch.randn(1, B, H, device=DEVICE)
    h[..., -1] = torch.inf
    x = torch.randn(1, B, 5, device=DEVICE)
    found, expected = fast(x, h)[0], slow(x, h)[0]
    assert expected[..., :-1].isfinite().all()
    assert_close(found, expected, atol=2e-5, rtol=2e-4, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("cell", [*cell_names(), quotient], ids=str)
def test_results_and_gradients(cell, driver):
    check(cell, driver)


@pytest.mark.parametrize("driver", DRIVERS)
def test_layers_are_as_wide_as_their_inputs(driver):
    check("lstm", driver, layers=2)


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["block", "grid"])
def test_both_directions_lie_side_by_side(driver):
    check("peephole_lstm", driver, layers=2, bidirectional=True)


def test_lengths_resets_and_all_states():
    lengths = torch.tensor([2, 0, 1], device=DEVICE)
    resets = torch.tensor([[False, True, False], [True, False, False]], device=DEVICE)
    check("lstm", "grid", lengths=lengths)
    check("gru", "step", resets=resets, reset_state=torch.randn(1, B, H, device=DEVICE))


def test_a_kernel_is_given_units_in_sixteens(monkeypatch):
    from gatefuse.kernels.loops.triton import layers as kernel_layers

    widths, sequence = [], kernel_layers._sequence
    monkeypatch.setattr(kernel_layers, "_sequence", lambda *a: widths.append(a[3].shape[2]) or sequence(*a))
    layer = Recurrent("lstm", 5, H, driver="step", device=DEVICE)
    assert layer(torch.randn(T, B, 5, device=DEVICE))[0].shape == (T, B, H)
    assert widths == [80]

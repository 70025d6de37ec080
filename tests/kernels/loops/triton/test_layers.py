"""Whole layers by Triton's kernels in one autograd function, against the loop over the equations."""

import pytest
import torch
from torch import sigmoid, tanh
from torch.testing import assert_close

from gatefuse import Recurrent, cell
from gatefuse.kernels.loops.triton import layers as kernel_layers

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DRIVERS = ("step", "block", "grid")


@cell(gates="z:x n m:R")
def one_sided(x, R, h):
    """One product of all recurrent gates, in their order, which is not that of all gates."""
    a = R(h)
    z = sigmoid(x.z)
    return z * tanh(x.n + a.n) * tanh(a.m) + (1 - z) * h


@pytest.fixture
def ran(monkeypatch):
    """How often layers went this way."""
    count, layers = [], kernel_layers.layers
    monkeypatch.setattr(kernel_layers, "layers", lambda *given: count.append(1) or layers(*given))
    return count


def pair(cell, driver, layers=1, **options):
    found = [Recurrent(cell, 3, 5, layers, driver=d, device=DEVICE, **options) for d in (driver, "eager")]
    found[1].load_state_dict(found[0].state_dict())
    return found


def states_of(layer, given):
    """Random first states, or None."""
    if not given:
        return None
    made = [torch.randn(layer.num_layers, 2, 5, device=DEVICE).abs().requires_grad_() for _ in layer.cell.states]
    return tuple(made) if len(made) > 1 else made[0]


def as_tuple(value):
    return value if isinstance(value, tuple) else () if value is None else (value,)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("cell", "layers", "bias", "given"),
    [
        ("lstm", 1, True, False), ("lstm", 2, True, True), ("gru", 2, True, True), ("gru_reset_first", 2, False, True),
        ("peephole_lstm", 2, True, True), ("slstm", 1, True, False), ("elman", 3, False, False),
        (one_sided, 2, True, True), ("sru", 2, True, True),
    ],
)  # fmt: skip
def test_results_and_gradients_are_those_of_the_equations(ran, driver, cell, layers, bias, given):
    torch.manual_seed(0)
    fast, slow = pair(cell, driver, layers, bias=bias)
    x = torch.randn(4, 2, 3, device=DEVICE, requires_grad=True)
    state = states_of(fast, given)
    found = []
    for layer in (fast, slow):
        output, last = layer(x, state)
        results = output, *as_tuple(last)
        leaves = x, *as_tuple(state), *layer.parameters()
        upstream = [torch.full_like(value, 0.5) + value.detach() for value in results]
        found.append((results, torch.autograd.grad(results, leaves, upstream, allow_unused=True)))
        with torch.no_grad():
            assert_close(layer(x, state)[0], output)
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert len(ran) == 2


@pytest.mark.parametrize("driver", DRIVERS)
def test_some_gradients_alone_gradients_of_gradients_and_changes_in_place(driver):
    torch.manual_seed(0)
    fast, slow = pair("gru", driver, 2)
    x = torch.randn(4, 2, 3, device=DEVICE)
    for layer in (fast, slow):
        layer.weight_ih_l0.requires_grad_(False)
        layer.bias_ih_l1.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    second = []
    for layer in (fast, slow):
        wanted = [leaf, *(p for p in layer.parameters() if p.requires_grad)]
        output, last = layer(leaf)
        (first, *_) = torch.autograd.grad(output.pow(2).sum() + last.sum(), wanted, create_graph=True)
        second.append(torch.autograd.grad(first.pow(2).sum(), wanted, allow_unused=True))
    assert_close(second[0], second[1], rtol=1e-4, atol=1e-5)
    output, last = fast(leaf)
    expected = torch.autograd.grad(output.sum(), leaf, retain_graph=True)[0]
    output.detach().mul_(2)
    last.detach().zero_()
    assert torch.equal(torch.autograd.grad(output.sum(), leaf)[0], expected)


@pytest.mark.parametrize("driver", DRIVERS)
def test_weights_are_checked_before_a_kernel_reads_them(driver):
    layer = Recurrent("lstm", 3, 5, driver=driver, device=DEVICE)
    x = torch.randn(4, 2, 3, device=DEVICE)
    layer.weight_hh_l0 = torch.nn.Parameter(layer.weight_hh_l0.detach()[:, :4].contiguous())
    with pytest.raises(ValueError, match=r"weight_hh must have shape \(20, 5\). Got \(20, 4\)."):
        layer(x)
    layer = Recurrent("lstm", 3, 5, driver=driver, device=DEVICE)
    layer.bias_hh_l0 = torch.nn.Parameter(layer.bias_hh_l0.detach().double())
    with pytest.raises(RuntimeError, match=r"bias_hh must be torch.float32 on .*, as x is. Got torch.float64"):
        layer(x)


def test_masks_directions_and_all_states_go_the_other_way(ran):
    x, lengths = torch.randn(4, 2, 3, device=DEVICE), torch.tensor([4, 2], device=DEVICE)
    both = Recurrent("gru", 3, 5, driver="block", bidirectional=True, device=DEVICE)
    one = Recurrent("gru", 3, 5, driver="block", device=DEVICE)
    both(x)
    one(x, lengths=lengths)
    one(x, all_states=True)
    assert not ran

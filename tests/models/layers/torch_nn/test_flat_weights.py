"""Which weights a layer uses, torch.nn's list of them, and how often each is read."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse.kernels.drivers.vendor import double_backward
from tests.support.layers import flat

T, B, I, H = 5, 2, 3, 4
LAYERS = ("LSTM", "GRU", "RNN")
DRIVERS = ("auto", "vendor", "eager", "script", "aten", "llvm")


def pair(name, driver, **options):
    theirs = getattr(nn, name)(I, H, dtype=torch.float64, **options)
    ours = getattr(gatefuse, name)(I, H, dtype=torch.float64, driver=driver, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def assert_alike(ours, theirs, steps):
    x = torch.randn(steps, B, I, dtype=torch.float64)
    expected = theirs(x)
    assert_close(flat(ours(x)), flat(expected))
    assert_close(flat(ours(x, lengths=[steps] * B)), flat(expected))


@pytest.mark.parametrize("steps", [1, T])
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", LAYERS)
def test_who_writes_into_the_list_is_obeyed(name, driver, steps):
    theirs, ours = pair(name, driver, num_layers=2, bidirectional=True)
    weight = torch.zeros_like(theirs.weight_hh_l1)
    for k in (2, 9):
        for layer in (theirs, ours):
            layer._flat_weights[k] = torch.zeros_like(layer._flat_weights[k])
        assert_alike(ours, theirs, steps)
    for layer in (theirs, ours):  # torch.nn makes its list anew where an attribute changes
        layer.weight_hh_l1 = nn.Parameter(weight)
    assert_alike(ours, theirs, steps)
    for layer in (theirs, ours):
        layer._flat_weights[2] = torch.zeros_like(layer._flat_weights[2])
    assert_alike(ours, theirs, steps)
    for way in (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))):
        assert_alike(way(ours), way(theirs), steps)


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, weight):
        self.calls += 1
        return weight / 2


def counted(layer):
    counters = {}
    for name in [name for name, _ in layer.named_parameters()]:
        counters[name] = Counted()
        parametrize.register_parametrization(layer, name, counters[name])
    for counter in counters.values():
        counter.calls = 0
    return counters


def assert_read_once(layer, *given, **options):
    counters = counted(layer)
    for count in (1, 2):
        result = layer(*given, **options)
        assert {name: counter.calls for name, counter in counters.items()} == dict.fromkeys(counters, count)
    assert len(counters) in (4, 8)
    return result


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", [*LAYERS, "Recurrent"])
def test_a_forward_computes_each_weight_once(name, driver, grad, foreign, monkeypatch):
    monkeypatch.setattr(double_backward, "foreign", lambda device: foreign)
    x = torch.randn(25, B, I)
    packed = pack_padded_sequence(x, torch.tensor([25, 21]))
    for given, options in itertools.chain(
        [((x,), {}), ((x[:1],), {}), ((x[:, 0],), {}), ((packed,), {})],
        [((x,), {"lengths": [25, 3]})],
        [((x,), {"resets": torch.rand(25, B) < 0.2})] if driver != "vendor" else [],
    ):
        layer = gatefuse.Recurrent("gru", I, H, driver=driver) if name == "Recurrent" else None
        layer = layer or getattr(gatefuse, name)(I, H, driver=driver, num_layers=2)
        with torch.set_grad_enabled(grad):
            assert_read_once(layer, *given, **options)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_cell_computes_each_weight_once(name, driver):
    layer = getattr(gatefuse, name)(I, H, driver=driver)
    assert_read_once(layer, torch.randn(B, I))
    layer = getattr(gatefuse, name)(I, H, driver=driver)
    assert_read_once(layer, torch.randn(I), *[(torch.randn(H),) * 2 if name == "LSTMCell" else torch.randn(H)])


def test_a_projection_s_weights_too():
    layer = gatefuse.LSTM(I, H, proj_size=2, dtype=torch.float64)
    counters = counted(layer)
    layer(torch.randn(T, B, I, dtype=torch.float64))
    assert [counter.calls for counter in counters.values()] == [1] * 5


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_weight_that_is_drawn_has_the_gradient_of_its_draw(name, driver):
    """A weight drop: were it computed twice, what ran and what has gradients would be two draws."""
    layer = getattr(gatefuse, name)(I, H, driver=driver, dtype=torch.float64)
    parametrize.register_parametrization(layer, "weight_hh_l0", nn.Dropout(0.5))
    x = torch.randn(T, B, I, dtype=torch.float64)
    torch.manual_seed(0)
    output, _ = layer(x)
    (found,) = torch.autograd.grad(output.sum(), layer.parametrizations.weight_hh_l0.original)
    torch.manual_seed(0)
    dropped = layer.weight_hh_l0
    parametrize.remove_parametrizations(layer, "weight_hh_l0", leave_parametrized=False)
    layer.weight_hh_l0 = nn.Parameter(dropped.detach())
    expected_output, _ = layer(x)
    (expected,) = torch.autograd.grad(expected_output.sum(), layer.weight_hh_l0)
    assert_close(output, expected_output)
    assert_close(found, expected * (dropped != 0) * 2)

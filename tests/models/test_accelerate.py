"""accelerate and restore on models as real code has them."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import gatefuse
from gatefuse.kernels.drivers import eager
from tests.support.layers import flat

T, B, I, H = 5, 3, 4, 6
KINDS = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
exchanged = pytest.mark.parametrize("driver", ["auto", "vendor"])
TORCH_WARNS = [
    "ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning",
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:LSTM with projections:UserWarning",
]


def make(name, *args, **options):
    torch.manual_seed(0)
    return getattr(nn, name)(*(args or (I, H)), **options)


def sequence(layer):
    return torch.randn(B, I) if isinstance(layer, nn.RNNCellBase) else torch.randn(T, B, I)


class Wrapped(nn.Module):
    """A model around a layer, whose output alone goes on."""

    def __init__(self, layer):
        super().__init__()
        self.rnn = layer
        self.head = nn.Linear(layer.hidden_size, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def assert_changed(module, name="LSTM"):
    assert isinstance(module, getattr(gatefuse, name))


def near(exact):
    return {"rtol": 0, "atol": 0} if exact else {}


def assert_exchanges(model, layer, run, driver="auto"):
    """The model is accelerated and restored with the same objects and attributes, and with the same results: of a layer
    by auto but for rounding, else to the bit."""
    before, identity = run(), id(layer)
    kind, attributes = type(layer), dict(layer.__dict__)
    parameters = {name: id(p) for name, p in model.named_parameters()}
    told = gatefuse.accelerate(model, driver=driver)
    assert len(told.changed) == 1
    assert_changed(layer, kind.__name__.removeprefix("Parametrized"))
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    exact = driver == "vendor" or isinstance(layer, nn.RNNCellBase)
    for a, b in zip(flat(run()), flat(before), strict=True):
        torch.testing.assert_close(a, b, **near(exact))
    assert len(gatefuse.restore(model).changed) == 1
    assert (type(layer).__name__, type(layer).__bases__) == (kind.__name__, kind.__bases__)
    assert (id(layer), layer.__dict__.keys()) == (identity, attributes.keys())
    for a, b in zip(flat(run()), flat(before), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    return told


@exchanged
@pytest.mark.parametrize("name", KINDS)
def test_the_root_itself(name, driver):
    layer = make(name)
    x = sequence(layer)
    told = assert_exchanges(layer, layer, lambda: layer(x), driver)
    assert told.changed == {"": f"torch.nn.{name} -> gatefuse.{name}"}
    assert str(told) == f"1 of 1 recurrent layer changed.\n  the model itself  torch.nn.{name} -> gatefuse.{name}"


@exchanged
def test_an_optimizer_goes_on(driver):
    x = torch.randn(T, B, I)

    def train(change):
        torch.manual_seed(0)
        model = Wrapped(nn.LSTM(I, H))
        optimizer = torch.optim.Adam(model.parameters())
        for step in range(4):
            if step == 2:
                change(model)
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        return model.state_dict()

    ours, theirs = train(lambda model: gatefuse.accelerate(model, driver=driver)), train(lambda model: None)
    torch.testing.assert_close(ours, theirs, **near(driver == "vendor"))


def test_many_layers_and_a_shared_one():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.GRU(I, I), nn.RNN(I, I, nonlinearity="relu")])
            self.cells = nn.ModuleDict({"a": nn.LSTMCell(I, I)})
            self.tied = self.layers[0]

    model = Model()
    told = gatefuse.accelerate(model)
    assert told.changed == {
        "layers.0": "torch.nn.GRU -> gatefuse.GRU, also as tied",
        "layers.1": "torch.nn.RNN -> gatefuse.RNN",
        "cells.a": "torch.nn.LSTMCell -> gatefuse.LSTMCell",
    }
    assert model.tied is model.layers[0]
    assert model.layers[1].cell.name == "elman_relu"
    again = gatefuse.accelerate(model)
    assert not again.changed
    assert set(again.left.values()) == {"it is gatefuse's already", "it is gatefuse's already, also as tied"}
    assert len(gatefuse.restore(model).changed) == 3
    assert type(model.tied) is nn.GRU


def test_a_model_that_contains_itself():
    model = Wrapped(make("GRU"))
    model.rnn.around = model
    told = gatefuse.accelerate(model)
    assert list(told.changed) == ["rnn"]


def test_nothing_to_change():
    told = gatefuse.accelerate(nn.Linear(2, 2))
    assert str(told) == "No recurrent layer was found; of a loop written by hand, gatefuse.cell makes one."


def test_the_driver_is_the_callers():
    model = Wrapped(make("LSTM"))
    gatefuse.accelerate(model, driver="eager")
    assert model.rnn.plan(torch.randn(T, B, I)).driver == "eager"
    gatefuse.restore(model)
    assert "driver" not in vars(model.rnn)


@exchanged
def test_hooks_come_along(driver):
    layer = make("LSTM")
    seen = []
    layer.register_forward_pre_hook(lambda module, args: seen.append("before"))
    layer.register_forward_hook(lambda module, args, result: (result[0] + 1, result[1]))
    x = sequence(layer)
    told = assert_exchanges(layer, layer, lambda: layer(x), driver)
    assert told.changed[""].endswith(", with its hooks")
    assert seen == ["before"] * 3


@exchanged
def test_parametrizations_come_along_and_go(driver):
    layer = make("LSTM")
    parametrize.register_parametrization(layer, "weight_hh_l0", Half())
    x = sequence(layer)
    told = assert_exchanges(layer, layer, lambda: layer(x), driver)
    assert told.changed[""].endswith(", with its parametrizations")
    gatefuse.accelerate(layer, driver=driver)
    halved = layer(x)[0]
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is gatefuse.LSTM
    assert torch.equal(layer(x)[0], halved)
    parametrize.register_parametrization(layer, "weight_hh_l0", Half())
    assert gatefuse.restore(layer).changed
    parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert type(layer) is nn.LSTM


@pytest.mark.parametrize("driver", ["auto", "vendor", "eager"])
@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
@pytest.mark.filterwarnings(*TORCH_WARNS)
def test_weights_that_hooks_compute(name, driver):
    """weight_norm of old and pruning delete the parameter and set a plain tensor before every call."""
    layer = make(name, dtype=torch.float64)
    weight = "weight_hh_l0" if name == "LSTM" else "weight_hh"
    torch.nn.utils.weight_norm(layer, weight)
    prune.l1_unstructured(layer, weight.replace("hh", "ih"), amount=0.5)
    x = sequence(layer).double()
    if driver != "eager":
        assert_exchanges(layer, layer, lambda: layer(x), driver)
    before = flat(layer(x))
    gatefuse.accelerate(layer, driver=driver)
    torch.testing.assert_close(flat(layer(x)), before, rtol=1e-10, atol=1e-10)
    flat(layer(x))[0].sum().backward()
    assert getattr(layer, f"{weight}_v").grad is not None


@pytest.mark.parametrize("driver", ["auto", "vendor", "eager"])
def test_weights_dropped_before_every_call(driver):
    """As language models do: the raw weight lies beside, and a tensor is put in its place for each call."""

    class Dropped(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.inner = layer
            self.raw = nn.Parameter(layer.weight_hh_l0.detach().clone())
            del layer.weight_hh_l0

        def forward(self, x):
            self.inner.weight_hh_l0 = nn.functional.dropout(self.raw, 0.5, self.training)
            return self.inner(x)

    model = Dropped(make("LSTM", dtype=torch.float64))
    x = torch.randn(T, B, I, dtype=torch.float64)
    results, gradients = [], []
    for change in (lambda model: None, lambda model: gatefuse.accelerate(model, driver=driver), gatefuse.restore):
        change(model)
        torch.manual_seed(1)
        output = model(x)[0]
        model.zero_grad()
        output.sum().backward()
        results.append(output.detach())
        gradients.append(model.raw.grad.clone())
    for found in (results, gradients):
        torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
        assert torch.equal(found[2], found[0])


@exchanged
def test_copies_pickles_and_modes(driver):
    model = Wrapped(make("GRU")).eval()
    x = torch.randn(T, B, I)
    before = model(x)
    gatefuse.accelerate(model, driver=driver)
    torch.testing.assert_close(model(x), before, **near(driver == "vendor"))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.rnn.training
        assert torch.equal(other(x), model(x))
        assert len(gatefuse.restore(other).changed) == 1
        assert type(other.rnn) is nn.GRU
        assert torch.equal(other(x), before)


@exchanged
def test_on_meta_and_afterwards(driver):
    with torch.device("meta"):
        model = Wrapped(nn.LSTM(I, H))
    gatefuse.accelerate(model, driver=driver)
    assert model(torch.empty(T, B, I, device="meta")).shape == (T, B, 2)
    weights = Wrapped(make("LSTM"))
    model.to_empty(device="cpu").load_state_dict(weights.state_dict())
    x = torch.randn(T, B, I)
    torch.testing.assert_close(model(x), weights(x), **near(driver == "vendor"))


@exchanged
def test_within_data_parallel(driver):
    model = nn.DataParallel(Wrapped(make("LSTM")))
    x = torch.randn(T, B, I)
    before = model(x)
    assert list(gatefuse.accelerate(model, driver=driver).changed) == ["module.rnn"]
    torch.testing.assert_close(model(x), before, **near(driver == "vendor"))
    replica = model.module.rnn._replicate_for_data_parallel()
    assert_changed(replica)


@pytest.mark.parametrize("how", ["compiled", "in place", "allow_rnn"])
def test_within_a_compiled_model(how, monkeypatch):
    """What was compiled before sees the change at its next call."""
    torch.compiler.reset()
    model = Wrapped(make("LSTM"))
    x = torch.randn(T, B, I)
    if how == "in place":
        model.compile(backend="eager")
        compiled = model
    else:
        compiled = torch.compile(model, backend="eager")
    calls = []
    run = eager.run
    monkeypatch.setattr(eager, "run", lambda task: calls.append(1) or run(task))
    with torch._dynamo.config.patch(allow_rnn=how == "allow_rnn"):
        before = compiled(x)
        assert len(gatefuse.accelerate(compiled, driver="eager").changed) == 1
        torch.testing.assert_close(compiled(x), before)
        assert calls
        gatefuse.restore(compiled)
        assert torch.equal(compiled(x), before)

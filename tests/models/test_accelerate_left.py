"""What accelerate leaves as it is, and what it says about it."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import gatefuse
from tests.models.test_accelerate import TORCH_WARNS, B, H, Half, I, T, Wrapped, make


class Renamed(nn.LSTM):
    pass


def patched():
    layer = make("LSTM")
    layer.forward = nn.LSTM.forward.__get__(layer)
    return layer


def scripted():
    return torch.jit.script(nn.Sequential(make("LSTM")))


def traced():
    return torch.jit.trace(Wrapped(make("GRU")), torch.randn(T, B, I))


def quantized():
    return torch.ao.nn.quantized.dynamic.LSTM(I, H)


def quantizable():
    return torch.ao.nn.quantizable.LSTM(I, H)


LEFT = {
    "a subclass": (
        lambda: Renamed(I, H),
        "Renamed is a subclass, whose methods may rely on torch.nn's; derive it from gatefuse's instead",
    ),
    "a subclass with parametrizations": (
        lambda: parametrize.register_parametrization(Renamed(I, H), "weight_hh_l0", Half()),
        "ParametrizedRenamed is a subclass",
    ),
    "a forward of its own": (patched, "forward was replaced on this very object, and would go on hiding the class's"),
    "TorchScript": (scripted, "it is TorchScript, whose code is fixed"),
    "a trace": (traced, "it is TorchScript, whose code is fixed"),
    "quantized": (quantized, "torch.ao.nn.quantized.dynamic.modules.rnn.LSTM is not one of torch.nn's"),
    "quantizable": (quantizable, "torch.ao.nn.quantizable.modules.rnn.LSTM is not one of torch.nn's"),
    "gatefuse's": (lambda: gatefuse.LSTM(I, H), "it is gatefuse's already"),
}


@pytest.mark.filterwarnings(*TORCH_WARNS)
@pytest.mark.parametrize(("build", "why"), LEFT.values(), ids=LEFT.keys())
def test_what_is_left_is_untouched_and_named(build, why):
    model = nn.ModuleDict({"layer": build(), "changed": nn.GRU(I, H)})
    before = [(type(module), list(module.__dict__)) for module in model["layer"].modules()]
    told = gatefuse.accelerate(model)
    assert list(told.changed) == ["changed"]
    assert any(why in text for text in told.left.values())
    assert all(name.startswith("layer") for name in told.left)
    assert f"left: {next(iter(told.left.values()))}" in str(told)
    assert [(type(module), list(module.__dict__)) for module in model["layer"].modules()] == before
    gatefuse.restore(model)
    assert [(type(module), list(module.__dict__)) for module in model["layer"].modules()] == before


def test_restore_leaves_what_was_made_as_gatefuses():
    model = nn.ModuleList([gatefuse.LSTM(I, H), nn.LSTM(I, H)])
    gatefuse.accelerate(model)
    told = gatefuse.restore(model)
    assert told.left == {"0": "accelerate did not change it"}
    assert told.changed == {"1": "gatefuse.LSTM -> torch.nn.LSTM"}


def test_restore_leaves_what_others_derived_since():
    layer = nn.LSTM(I, H)
    gatefuse.accelerate(layer)
    layer.__class__ = type("Traced", (gatefuse.LSTM,), {"__module__": "another"})
    assert gatefuse.restore(layer).left == {"": "another.Traced was derived from gatefuse's layer since"}


def test_a_wrapper_of_the_same_name_is_no_layer():
    class LSTM(Wrapped):
        pass

    told = gatefuse.accelerate(LSTM(make("LSTM")))
    assert (list(told.changed), told.left) == (["rnn"], {})


@pytest.mark.parametrize("function", [gatefuse.accelerate, gatefuse.restore])
def test_a_model_must_be_a_module(function):
    with pytest.raises(TypeError, match=re.escape("model must be a torch.nn.Module. Got function.")):
        function(lambda x: x)


def test_a_driver_must_exist():
    model = Wrapped(make("LSTM"))
    with pytest.raises(ValueError, match=re.escape("driver must be one of auto, eager,")):
        gatefuse.accelerate(model, driver="fast")
    assert type(model.rnn) is nn.LSTM


def test_what_looks_up_the_very_class_finds_restored_layers_alone():
    """As Opacus's tables of validators, fixers and gradients by sample do; it has layers of its own in their place."""

    class DPLSTM(nn.Module):
        pass

    tables = {nn.LSTM: DPLSTM}
    model = nn.Sequential(nn.LSTM(3, 4))
    gatefuse.accelerate(model)
    assert type(model[0]) not in tables
    gatefuse.restore(model)
    model[0] = tables[type(model[0])]()
    assert (
        str(gatefuse.accelerate(model))
        == "No recurrent layer was found; of a loop written by hand, gatefuse.cell makes one."
    )

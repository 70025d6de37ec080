"""speechbrain's layers that accelerate leaves, and calls in which those that it changed run the package's own loop."""

import pytest
import torch
from torch import nn

import gatefuse
from tests.support.speechbrain_layers import B, H, I, T, make, package, pair

if package is None:
    pytest.skip("the package speechbrain isn't there", allow_module_level=True)


class Own(package.LiGRU_Layer):
    pass


def hooked(layer):
    layer.u.register_forward_hook(lambda *_: None)


def watched_act(layer):
    layer.act.register_forward_hook(lambda *_: None)


def parametrized(layer):
    nn.utils.parametrizations.weight_norm(layer.u)


def steeper(layer):
    layer.act = nn.LeakyReLU(0.2)


def another_act(layer):
    layer.act = nn.GELU()


def replaced(layer):
    layer._ligru_cell = lambda w, ht: w


def derived(layer):
    layer.__class__ = Own


LEFT = {
    "hooks": (hooked, "its u has hooks, which would not be called in each step"),
    "hooks of the activation": (watched_act, "its act has hooks, which would not be called in each step"),
    "a parametrization": (parametrized, "its u is another than a plain nn.Linear without bias"),
    "a steeper slope": (steeper, "its act is another than speechbrain makes"),
    "another activation": (another_act, "its act is another than speechbrain makes"),
    "a loop of its own": (replaced, "_ligru_cell was replaced on this very object"),
    "a subclass": (derived, "Own is a subclass, whose methods may rely on those that would be exchanged"),
}


@pytest.mark.parametrize(("change", "why"), LEFT.values(), ids=LEFT.keys())
def test_what_is_left_and_why(change, why):
    model = make("LiGRU")
    change(model.rnn[0])
    kind = type(model.rnn[0])
    told = gatefuse.accelerate(model)
    assert not told.changed
    assert told.left["rnn.0"].endswith(why)
    assert type(model.rnn[0]) is kind


@pytest.mark.parametrize("change", [hooked, parametrized, another_act])
def test_what_is_changed_later_runs_the_packages_loop(change, here):
    theirs, ours = pair("LiGRU")
    x = torch.randn(B, T, I, dtype=torch.float64)
    for model in (theirs, ours):
        torch.manual_seed(0)
        change(model.rnn[0])
    assert torch.equal(ours(x)[0], theirs(x)[0])
    assert not here


def test_other_code_is_left(monkeypatch):
    monkeypatch.setattr(package.LiGRU_Layer, "_ligru_cell", lambda self, w, ht: w)
    why = "the code of its time loop is another than that of speechbrain 1.1.2, with which gatefuse was compared"
    assert gatefuse.accelerate(make("LiGRU")).left == {"rnn.0": why}


def test_torchs_loop_is_not_theirs():
    why = "torch's own loops, which driver vendor is, are of torch.nn's layers alone"
    assert gatefuse.accelerate(make("LiGRU"), driver="vendor").left == {"rnn.0": why}


def autocast(model, x):
    with torch.autocast("cpu", torch.bfloat16):
        return model(x.float())[0]


def half(model, x):
    return model.bfloat16()(x.bfloat16())[0]


def forward_mode(model, x):
    return torch.func.jvp(lambda v: model(v)[0], (x.float(),), (torch.ones_like(x).float(),))[1]


def compiled(model, x):
    torch.compiler.reset()
    return torch.compile(model, backend="eager")(x.float())[0]


def traced(model, x):
    return torch.jit.trace(model, x.float(), check_trace=False)(x.float())[0]


def broadcast(model, x):
    return model.rnn[0](x.float(), torch.ones(1, H))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", [autocast, half, forward_mode, compiled, traced, broadcast])
def test_elsewhere_it_is_the_packages_loop(how, here):
    theirs, ours = pair("LiGRU", torch.float32)
    theirs.eval(), ours.eval()
    x = torch.randn(B, T, I)
    assert torch.equal(how(ours, x), how(theirs, x))
    assert not here


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_script_is_of_the_packages_layers():
    theirs, ours = pair("LiGRU", torch.float32)
    theirs.eval(), ours.eval()
    x = torch.randn(B, T, I)
    assert torch.equal(gatefuse.scripted(ours)(x)[0], theirs(x)[0])

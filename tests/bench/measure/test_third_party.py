"""Other people's kernels, by what they state: how weights are laid out, and where they are left out."""

import sys
import warnings
from types import ModuleType

import pytest
import torch
from torch.nn.functional import linear

from gatefuse.bench.measure import race
from gatefuse.bench.measure.clocks import CpuClock
from gatefuse.bench.suite import contenders as who
from gatefuse.bench.suite import networks, third_party
from gatefuse.bench.suite.contender import Contender
from gatefuse.bench.suite.sweeps import SWEEPS, Group, Shape
from tests.bench.measure.test_contenders import CPU, CUDA, check, named


def fake_flashrnn(Wx, R, b, states=None, function="lstm", config=None, backend="cuda_fused", dtype="bfloat16"):
    """The equations of flashrnn/vanilla, with R (G, heads, out, in) and one head."""
    B, T, _, _, H = Wx.shape
    h = c = n = m = Wx.new_zeros(B, H)
    found = []
    for t in range(T):
        x, r, bias = Wx[:, t, :, 0], torch.einsum("gdp,bp->bgd", R[:, 0], h), b[:, 0]
        if function == "lstm":
            i, f, z, o = (x + r + bias).unbind(1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
            h = torch.sigmoid(o) * torch.tanh(c)
        elif function == "slstm":
            i, f, z, o = (x + r + bias).unbind(1)
            kept = torch.nn.functional.logsigmoid(f) + m
            m = i if t == 0 else torch.maximum(i, kept)
            c = torch.exp(kept - m) * c + torch.exp(i - m) * torch.tanh(z)
            n = torch.maximum(torch.exp(kept - m) * n + torch.exp(i - m), torch.ones_like(n))
            h = torch.sigmoid(o) * c / n
        elif function == "elman":
            h = torch.tanh((x + r + bias)[:, 0])
        else:
            g = r[:, 0] + bias[0]
            reset, z = torch.sigmoid(x[:, 0] + r[:, 1] + bias[1]), torch.sigmoid(x[:, 1] + r[:, 2] + bias[2])
            h = z * h + (1 - z) * torch.tanh(x[:, 2] + bias[3] + reset * g)
        found.append(h)
    return torch.stack(found, 1)[None, :, :, None], None


class FakeHaste(torch.nn.Module):
    """Haste's layers as its Python versions compute them: gates i, g, f, o and z, r, g."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size = hidden_size

    def from_native_weights(self, *weights):
        order = (0, 2, 1, 3) if isinstance(self, FakeHasteLSTM) else (1, 0, 2)
        parts = [[w.chunk(len(order))[k] for k in order] for w in weights]
        self.w, self.r, self.b, self.rb = (torch.nn.Parameter(torch.cat(p)) for p in parts)


class FakeHasteLSTM(FakeHaste):
    def forward(self, x):
        h = c = x.new_zeros(x.shape[1], self.hidden_size)
        found = []
        for x_t in x:
            i, g, f, o = (linear(x_t, self.w, self.b) + linear(h, self.r, self.rb)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            found.append(h)
        return torch.stack(found), None


class FakeHasteGRU(FakeHaste):
    def forward(self, x):
        h = x.new_zeros(x.shape[1], self.hidden_size)
        found = []
        for x_t in x:
            a, b = linear(x_t, self.w, self.b).chunk(3, 1), linear(h, self.r, self.rb).chunk(3, 1)
            z, r = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
            h = z * h + (1 - z) * torch.tanh(a[2] + r * b[2])
            found.append(h)
        return torch.stack(found), None


def fake_torchrl(kind):
    def run(x, hidden, *rest, input_precision):
        states = (hidden, rest[0]) if kind is torch.nn.LSTM else (hidden,)
        *weights, is_init = rest[len(states) - 1 :]
        assert all(s.shape == (*x.shape[:2], hidden.shape[2]) for s in states)
        assert is_init.shape == x.shape[:2]
        assert not is_init.any()
        layer = kind(x.shape[2], hidden.shape[2], batch_first=True)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    return run


@pytest.fixture
def installed(monkeypatch):
    names = ("flashrnn", "haste_pytorch", third_party._TRITON, "flag_gems.ops")
    flashrnn, haste, torchrl, gems = (ModuleType(name) for name in names)
    flashrnn.flashrnn = fake_flashrnn
    haste.LSTM, haste.GRU = FakeHasteLSTM, FakeHasteGRU
    torchrl.lstm_triton, torchrl.gru_triton = fake_torchrl(torch.nn.LSTM), fake_torchrl(torch.nn.GRU)
    gems.lstm, gems.gru = torch._VF.lstm, torch._VF.gru  # whose arguments they have
    for module in (flashrnn, haste, torchrl, gems):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize(
    ("name", "cell"),
    [("FlashRNN", c) for c in ("lstm", "gru", "elman", "slstm")]
    + [(n, c) for n in ("Haste", "TorchRL", "FlagGems") for c in ("lstm", "gru")],
)
def test_other_people_s_weights_are_laid_out_as_they_say(installed, name, cell, mode):
    check(name, Group(Shape(cell, 5, 3, 4, 2), "float32", mode))


def test_what_is_not_installed_is_left_out_with_a_word():
    for name in ("FlashRNN", "Haste", "TorchRL", "FlagGems"):
        said = named(name).refusal(Group(Shape("lstm", 5, 3, 4, 2), "float32", "forward"), CPU)
        assert said.endswith(("is not installed", "need a GPU"))
    assert named("Haste").refusal(Group(Shape("lstm", 5, 3, 4, 2), "float16", "forward"), CPU) == "it has no float16"


def test_a_flaggems_without_the_operator_is_left_out(installed, monkeypatch):
    monkeypatch.setattr(third_party, "find_spec", lambda name: name)
    group = Group(Shape("gru", 5, 3, 4, 2), "float32", "forward")
    assert named("FlagGems").refusal(group, CUDA) == ""
    monkeypatch.delattr(sys.modules["flag_gems.ops"], "gru")
    assert named("FlagGems").refusal(group, CUDA) == "the flag_gems that is installed has no gru"


def test_what_compiles_for_each_shape_is_left_to_the_long_sweeps(monkeypatch):
    monkeypatch.setattr(third_party, "find_spec", lambda name: name)
    shape = Shape("slstm", 5, 3, 4, 2)
    said = {sweep: named("FlashRNN").refusal(Group(shape, "bfloat16", "training", sweep), CUDA) for sweep in SWEEPS}
    assert {sweep for sweep, why in said.items() if not why} == {"real", "full"}
    assert said["quick"] == "it compiles for longer than this sweep is to take; real and full measure it"


def test_a_package_that_warns_when_it_is_imported_is_measured_all_the_same(monkeypatch):
    def warns(group, source):
        warnings.warn("this package is old", DeprecationWarning, stacklevel=1)
        return networks.torch_layer(group, source)

    monkeypatch.setattr(who, "CONTENDERS", (*who.CONTENDERS, Contender("old", warns, optional=True)))
    row, _ = race.race(Group(Shape("lstm", 5, 3, 4, 2), "float32", "forward"), CpuClock(), CPU, 0.0)["old"]
    assert (row.status, row.note) == ("ok", "")

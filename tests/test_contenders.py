"""Contenders other than gatefuse's: packed sequences, compiled steps, and other people's kernels by what they state."""

import sys
from types import ModuleType

import pytest
import torch
from torch.nn.functional import linear

from gatefuse.bench import compiled, optional, race
from gatefuse.bench import contenders as who
from gatefuse.bench.clocks import CpuClock
from gatefuse.bench.sweeps import SWEEPS, Group, Shape, groups

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_lengths_have_the_mean_that_is_asked_for(device):
    found = {group.shape for group in groups("lengths", device)}
    assert {shape.fill for shape in found} == {0.25, 0.5, 0.75, 1.0}
    for shape in found:
        assert len(shape.lengths) == shape.B
        assert max(shape.lengths) == shape.lengths[0] == shape.T
        assert min(shape.lengths) >= 1
        assert sum(shape.lengths) == round(shape.fill * shape.T * shape.B)
        assert shape.fill == 1 or len(set(shape.lengths)) > 2
    with pytest.raises(ValueError, match=r"fill must leave each sample a step and fill none over T. Got 0.1 for 8."):
        _ = Shape("lstm", 4, 8, 5, 4, fill=0.1, ragged=True).lengths


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_first"])
@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("both", [False, True])
def test_contenders_agree_where_lengths_are_given(cell, mode, both):
    shape = Shape(cell, 5, 4, 9, 3, bidirectional=both, fill=0.5, ragged=True)
    found = {name: row for name, (row, _) in race.race(Group(shape, "float32", mode), CpuClock(), CPU, 0.0).items()}
    assert not [row.note for row in found.values() if row.status == "failed"]
    ok = {name for name, row in found.items() if row.status == "ok"}
    assert {"gatefuse eager", "gatefuse script", "gatefuse auto"} <= ok
    assert ("torch.nn" in ok) == (cell != "gru_reset_first")
    assert ("torch.nn padded" in ok) == (cell != "gru_reset_first" and not both)
    assert all(found[name].error < 1e-5 for name in ok)
    assert {row.fill for row in found.values()} == {0.5}
    row = found["gatefuse eager"]
    assert row.tokens_per_second == pytest.approx(sum(shape.lengths) / row.p50)
    assert "torch.nn padded" not in {c.name for c in who.contenders(Group(Shape("lstm", 5, 4, 9, 3), "float32", mode))}


def test_regimes_hold_both_sides_of_each_border():
    found = {(s.cell, s.H, s.B) for s in (g.shape for g in groups("regimes", "cuda"))}
    assert found >= {("lstm", 768, B) for B in (8, 9, 16)} | {("lstm", H, 16) for H in (128, 192, 256)}
    assert {g.dtype for g in groups("regimes", "cuda")} == {"float16", "bfloat16", "float32"}


@pytest.mark.parametrize("sweep", ["quick", "real", "full"])
def test_on_a_gpu_shapes_with_a_name_come_first(sweep):
    named = [bool(group.shape.name) for group in groups(sweep, "cuda")]
    assert named == sorted(named, reverse=True)


def test_compiling_is_left_to_the_long_sweeps():
    shape = Shape("lstm", 8, 2, 3, 4)
    for device in (CPU, CUDA):
        for sweep in SWEEPS:
            said = compiled.refusal(Group(shape, "float32", "forward", sweep), device)
            assert bool(said) == (sweep not in compiled.SWEEPS[device.type]), said
    assert "real" in compiled.refusal(Group(shape, "float32", "forward", "quick"), CPU)


def test_without_a_compiler_there_is_a_word_for_it(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    said = compiled.refusal(Group(Shape("lstm", 8, 2, 3, 4), "float32", "forward", "real"), CPU)
    assert said == "torch.compile needs a C++ compiler on a CPU, and there is none"


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first", "peephole_lstm"])
def test_the_step_that_is_compiled_is_the_cell_s(cell, monkeypatch):
    """The function that would be compiled; the next test compiles one."""
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    compiled._step.cache_clear()
    check("torch.compile step", Group(Shape(cell, 5, 3, 4, 2), "float32", "training"))
    compiled._step.cache_clear()


def test_a_compiled_step_runs_where_warnings_are_errors():
    group = Group(Shape("elman", 5, 3, 4, 2), "float32", "training", "real")
    if why := compiled.refusal(group, CPU):
        pytest.skip(why)
    row, _ = race.race(group, CpuClock(), CPU, 0.0)["torch.compile step"]
    assert (row.status, row.note) == ("ok", "")
    assert row.compile_seconds > 100 * row.p50


def check(name, group):
    """A contender's output and gradient against the oracle's."""
    source = who.make_source(group, CPU)
    contender = next(c for c in who.CONTENDERS if c.name == name)
    network = contender.build(group, source)
    batch = race._draw(group, CPU)
    truth = race._call(group, who.make_oracle(group, source), tuple(t.double() for t in batch))()
    assert race._error(race._call(group, network, batch)(), truth, network.batch_first) < 1e-5


def fake_flashrnn(Wx, R, b, states=None, function="lstm", config=None, backend="cuda_fused", dtype="bfloat16"):
    """The equations of flashrnn/vanilla, with R (G, heads, out, in) and one head."""
    B, T, _, _, H = Wx.shape
    h, c = Wx.new_zeros(B, H), Wx.new_zeros(B, H)
    found = []
    for t in range(T):
        x, r, bias = Wx[:, t, :, 0], torch.einsum("gdp,bp->bgd", R[:, 0], h), b[:, 0]
        if function == "lstm":
            i, f, z, o = (x + r + bias).unbind(1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
            h = torch.sigmoid(o) * torch.tanh(c)
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
    flashrnn, haste, torchrl = (ModuleType(name) for name in ("flashrnn", "haste_pytorch", optional._TRITON))
    flashrnn.flashrnn = fake_flashrnn
    haste.LSTM, haste.GRU = FakeHasteLSTM, FakeHasteGRU
    torchrl.lstm_triton, torchrl.gru_triton = fake_torchrl(torch.nn.LSTM), fake_torchrl(torch.nn.GRU)
    for module in (flashrnn, haste, torchrl):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize(
    ("name", "cell"),
    [("FlashRNN", c) for c in ("lstm", "gru", "elman")]
    + [(n, c) for n in ("Haste", "TorchRL") for c in ("lstm", "gru")],
)
def test_other_people_s_weights_are_laid_out_as_they_say(installed, name, cell, mode):
    check(name, Group(Shape(cell, 5, 3, 4, 2), "float32", mode))


def test_what_is_not_installed_is_left_out_with_a_word():
    for name in ("FlashRNN", "Haste", "TorchRL"):
        contender = next(c for c in who.CONTENDERS if c.name == name)
        dtype = "float32" if contender.dtypes == ("float32",) else "bfloat16"
        said = contender.refusal(Group(Shape("lstm", 5, 3, 4, 2), dtype, "forward"), CPU)
        assert said.endswith(("is not installed", "need a GPU"))
    contender = next(c for c in who.CONTENDERS if c.name == "FlashRNN")
    assert contender.refusal(Group(Shape("lstm", 5, 3, 4, 2), "float32", "forward"), CPU) == "it has no float32"


def test_one_that_can_t_is_left_out_and_one_that_errs_has_failed(monkeypatch):
    def raises(x):
        raise ValueError("no tiling for H 5")

    extra = (
        who.Contender("can't", lambda group, source: who.Network(raises, ()), optional=True),
        who.Contender("errs", lambda group, source: who.Network(lambda x: torch.zeros(4, 3, 5), ()), optional=True),
    )
    monkeypatch.setattr(who, "CONTENDERS", who.CONTENDERS + extra)
    rows = race.race(Group(Shape("lstm", 5, 3, 4, 2), "float32", "forward"), CpuClock(), CPU, 0.0, without=["torch.nn"])
    row, _ = rows["can't"]
    assert (row.status, row.note) == ("left out", "ValueError: no tiling for H 5")
    assert rows["errs"][0].status == "failed"
    assert (rows["torch.nn"][0].status, rows["torch.nn"][0].note) == ("left out", "left out on request")

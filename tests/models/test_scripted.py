"""gatefuse.scripted: models as TorchScript of ATen operators, also where there is no gatefuse."""

import copy
import re
import subprocess
import sys
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent
from tests.support.layers import CLOSE, WITHOUT_INPUTS, flat, form

T, B, I, H = 4, 3, 2, 3
DOUBLE = {"dtype": torch.float64}


@gatefuse.cell(gates="a", init={"h": 0.5})
def leaky(x, R, h, *, p):
    return p * h + (1 - p) * torch.tanh(x.a + R.a(h))


class Tagger(nn.Module):
    """Tokens (B, T) -> scores (B, T, 2)."""

    def __init__(self, rnn):
        super().__init__()
        self.embedding = nn.Embedding(5, I, **DOUBLE)
        self.rnn = rnn
        self.head = nn.Linear(2 * H, 2, **DOUBLE)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(tokens))[0])


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(I, H, **DOUBLE)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0])[0]


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = Recurrent("lstm", I, H, **DOUBLE)

    def forward(self, x: Tensor, resets: Tensor) -> Tensor:
        return self.rnn(x, resets=resets)[0]


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = gatefuse.LSTMCell(I, H, driver="eager", **DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.cell(x[0])
        for t in range(1, x.size(0)):
            h, c = self.cell(x[t], (h, c))
        return h


class Several(nn.Module):
    """Cells of one state and of more, one of them twice in other forms."""

    def __init__(self):
        super().__init__()
        self.a = Recurrent("gru_reset_first", I, H, **DOUBLE)
        self.b = Recurrent("slstm", H, H, bidirectional=True, **DOUBLE)
        self.c = Recurrent("gru_reset_first", 2 * H, H, 2, bias=False, **DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)[0])[0])[0]


def accelerated(model):
    gatefuse.accelerate(model, driver="eager")
    return model


def x():
    return torch.randn(T, B, I, **DOUBLE)


ALL = {"num_layers": 2, "bidirectional": True, "batch_first": True, **DOUBLE}
BOTH = {"bidirectional": True, "batch_first": True, **DOUBLE}
MODELS = {
    "an accelerated model": (lambda: accelerated(Tagger(nn.GRU(I, H, 2, **BOTH))), lambda: (torch.randint(5, (B, T)),)),
    "a model with a Recurrent": (
        lambda: Tagger(Recurrent("peephole_lstm", I, H, 2, dropout=0.5, **BOTH)).eval(),
        lambda: (torch.randint(5, (B, T)),),
    ),
    "packed sequences": (lambda: accelerated(Packed()), lambda: (x(), torch.tensor([2, T, 1]))),
    "resets in the model": (Masked, lambda: (x(), torch.rand(T, B) < 0.4)),
    "a cell's loop": (Steps, lambda: (x(),)),
    "an LSTM alone": (lambda: gatefuse.LSTM(I, H, 2, **DOUBLE), lambda: (x(),)),
    "a GRU alone": (lambda: gatefuse.GRU(I, H, bias=False, driver="eager", **DOUBLE), lambda: (x(),)),
    "an RNN alone": (lambda: accelerated(nn.RNN(I, H, nonlinearity="relu", **ALL)), lambda: (x().transpose(0, 1),)),
    "a cell alone": (lambda: gatefuse.GRUCell(I, H, **DOUBLE), lambda: (x()[0],)),
    "a user's cell": (lambda: Recurrent(leaky, I, H, 2, bias=False, **DOUBLE), lambda: (x(),)),
    "several cells": (Several, lambda: (x(),)),
}


def operators(script):
    """All kinds of nodes in the graph, with those of functions and methods that it calls."""
    return set(re.findall(r"= (\w+::\w+)", str(script.inlined_graph)))


@pytest.fixture(scope="module")
def scripts():
    torch.manual_seed(0)
    found = {}
    for name, (build, draw) in MODELS.items():
        model = build()
        found[name] = model, gatefuse.scripted(model), draw()
    return found


@pytest.mark.parametrize("name", MODELS)
def test_results_and_state_dicts_are_the_models(scripts, name):
    model, script, given = scripts[name]
    assert isinstance(script, torch.jit.ScriptModule)
    assert_close(dict(script.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert {kind.partition("::")[0] for kind in operators(script)} <= {"aten", "prim"}
    assert "prim::PythonOp" not in operators(script)
    for _ in range(3):  # TorchScript compiles anew what it has seen run
        for a, b in zip(flat(script(*given)), flat(model(*given)), strict=True):
            assert_close(a, b, **CLOSE)


def test_they_run_where_there_is_no_gatefuse(scripts, tmp_path):
    for k, (model, script, given) in enumerate(scripts.values()):
        script.save(tmp_path / f"{k}.script")
        torch.save((given, model(*given)), tmp_path / f"{k}.pt")
    program = """
import sys
sys.modules["gatefuse"] = sys.modules["triton"] = None
import torch
for k in range(int(sys.argv[2])):
    script = torch.jit.load(f"{sys.argv[1]}/{k}.script")
    given, expected = torch.load(f"{sys.argv[1]}/{k}.pt")
    torch.testing.assert_close(script(*given), expected, rtol=1e-10, atol=1e-10)
"""
    command = [sys.executable, "-c", program, str(tmp_path), str(len(scripts))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


nameless = gatefuse.cell(gates="a")(lambda x, R, h: torch.tanh(x.a + R.a(h)))


@pytest.mark.parametrize("cell", [*WITHOUT_INPUTS, leaky, nameless], ids=str)
def test_a_recurrent_with_all_that_it_takes(cell):
    layer = Recurrent(cell, I, H, **ALL)
    script = gatefuse.scripted(layer)
    S = len(layer.cell.states)
    inputs = torch.randn(B, T, I, **DOUBLE, requires_grad=True)
    state, fresh = (form([torch.rand(4, B, H, **DOUBLE) for _ in range(S)]) for _ in range(2))
    lengths, resets = torch.tensor([T, 0, 2]), torch.rand(B, T) < 0.4
    for args, options in (
        ((), {}),
        ((state,), {}),
        ((), {"lengths": lengths}),
        ((state,), {"resets": resets}),
        ((state,), {"lengths": lengths, "resets": resets, "reset_state": fresh}),
    ):
        found = []
        for module in (script, layer):
            results = flat(module(inputs, *args, **options))
            slopes = torch.autograd.grad(sum(r.sum() for r in results), [inputs, *module.parameters()])
            found.append([*results, *slopes])
        assert_close(*found, **CLOSE)
    for a, b in zip(flat(script(inputs[0])), flat(layer(inputs[0])), strict=True):
        assert_close(a, b, **CLOSE)
    alone = resets[0]
    assert_close(script(inputs[0], resets=alone)[0], layer(inputs[0], resets=alone)[0], **CLOSE)


@pytest.mark.parametrize("cell", ["minimal_gated_unit", "gru_reset_first"])
def test_weights_that_were_frozen_before(cell):
    """What wants gradients is another in each turn, and none is lost."""
    layer, given = Recurrent(cell, I, H, **DOUBLE), torch.randn(T, B, I, **DOUBLE)
    names = [name for name, parameter in layer.named_parameters() if parameter.numel()]
    gradients = torch.autograd.grad(layer(given)[0].sum(), [layer.get_parameter(name) for name in names])
    expected = dict(zip(names, gradients, strict=True))
    for first, then in permutations(names, 2):
        script = gatefuse.scripted(layer)
        for name in (first, first, then, then):
            own = dict(script.named_parameters())
            for other in own:
                own[other].requires_grad_(other == name)
            (found,) = torch.autograd.grad(script(given)[0].sum(), own[name])
            assert_close(found, expected[name], **CLOSE)


def test_an_empty_batch_and_dropout():
    layer = gatefuse.Recurrent("gru", I, H, 2, dropout=0.5)
    script = gatefuse.scripted(layer)
    assert script(torch.randn(T, 0, I))[0].shape == (T, 0, H)
    given = torch.randn(T, B, I)
    assert not torch.equal(script(given)[0], script(given)[0])
    assert_close(script.eval()(given)[0], layer.eval()(given)[0])


def test_the_model_stays_as_it_is():
    model = accelerated(Tagger(nn.LSTM(I, H, **BOTH)))
    before = copy.copy(vars(model.rnn)), type(model.rnn), {name: id(p) for name, p in model.named_parameters()}
    script = gatefuse.scripted(model)
    assert (vars(model.rnn), type(model.rnn), {name: id(p) for name, p in model.named_parameters()}) == before
    with torch.no_grad():
        next(script.parameters()).zero_()
    assert all(p.any() for p in model.parameters())


@pytest.mark.filterwarnings("default:`torch.jit")
def test_nothing_is_scripted_before_and_the_warning_is_torchs():
    with pytest.warns((DeprecationWarning, FutureWarning), match=r"`torch.jit.script`"):
        gatefuse.scripted(Recurrent("elman", I, H))

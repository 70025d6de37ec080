"""What export_object refuses: in words, before anything is written."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import gatefuse
from gatefuse import GRU, LSTM, Recurrent, export_object
from tests.support.exported import needs


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = LSTM(3, 4)


class Derived(GRU):
    """Its forward may be another."""


def hooked():
    layer = LSTM(3, 4)
    layer.register_forward_hook(lambda *_: None)
    return layer


def infinite():
    layer = LSTM(3, 4)
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] = float("inf")
    return layer


def untranslatable():
    @gatefuse.cell(gates="a")
    def sorted_cell(x, R, h):
        return torch.tanh(x.a + R.a(h)).sort(1).values

    return Recurrent(sorted_cell, 3, 4)


def exploding():
    layer = nn.RNN(1, 1, nonlinearity="relu")
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1e38)
        layer.weight_hh_l0.fill_(1e38)
    return [layer, nn.Linear(1, 1)]


MODELS = [
    (lambda: "lstm", TypeError, "model must be a layer, an nn.Sequential or a list of modules. Got str."),
    (Net, TypeError, r"model must run modules one after the other; give a list .*Got Net, which can't be followed: "),
    (lambda: [LSTM(3, 4), nn.Conv1d(4, 4, 1)], TypeError, r"model\[1\] must be one of .*Got Conv1d"),
    (lambda: gatefuse.LSTMCell(3, 4), TypeError, r"^model must be one of Recurrent, .*\. Got LSTMCell\.$"),
    (lambda: gatefuse.GRUD(3, 4), TypeError, r"^model must be one of Recurrent, .*\. Got GRUD\.$"),
    (lambda: [[LSTM(3, 4)], "head"], TypeError, r"model\[1\] must be a layer, .*Got str."),
    (lambda: Derived(3, 4), TypeError, "Got Derived"),
    (lambda: nn.Sequential(nn.Linear(3, 4)), ValueError, "model must hold a recurrent layer. Got none."),
    (list, ValueError, "model must hold a recurrent layer. Got none."),
    (lambda: GRU(3, 4, bidirectional=True), ValueError, "must run in one direction: .*Got a bidirectional GRU."),
    (lambda: LSTM(3, 4, proj_size=2), ValueError, "model must have no projection. Got LSTM with proj_size 2."),
    (lambda: LSTM(3, 4, num_layers=2, dropout=0.5), ValueError, "model must be in eval mode, .*LSTM .*dropout 0.5."),
    (lambda: [LSTM(3, 4), nn.Dropout(0.1)], ValueError, r"model\[1\] must be in eval mode, .*Got Dropout .*0.1."),
    (lambda: GRU(3, 4).double(), ValueError, r"model must have weights of float32, .*Got torch.float64."),
    (lambda: [LSTM(3, 4), nn.Linear(4, 1).half()], ValueError, r"model\[1\] must have .*Got torch.float16."),
    (lambda: GRU(3, 4).to("meta"), ValueError, "model must have weights. Got weight_ih_l0 on the device meta."),
    (infinite, ValueError, "model must have finite weights. Got weight_hh_l0 with values that are not."),
    (hooked, ValueError, "model must have no hooks, of which C knows nothing. Got LSTM with some."),
    (untranslatable, TypeError, "model must have a cell that code can be made of. Got sorted_cell: .*sort"),
    (exploding, ValueError, "model must give finite numbers for input of unit variance. Got others."),
    (lambda: [LSTM(3, 4), nn.Linear(5, 1)], ValueError, r"Linear\(5, 1\) must take the 4 features .*Got 5."),
    (lambda: [LSTM(3, 4), LSTM(3, 4)], ValueError, r"lstm\(3, 4\) must take the 4 features .*Got 3."),
    (lambda: [LSTM(3, 4), nn.Embedding(4, 4)], ValueError, r"model\[1\] must be the first, if it is an Embedding."),
    (
        lambda: [nn.Embedding(4, 3, max_norm=1.0), LSTM(3, 4)],
        ValueError,
        r"model\[0\] must have no max_norm, by which a call changes weights. Got 1.0.",
    ),
]


@pytest.mark.parametrize(("model", "error", "text"), MODELS)
def test_models(model, error, text, tmp_path):
    with pytest.raises(error, match=text):
        export_object(model(), tmp_path / "net.o")
    assert not list(tmp_path.iterdir())


ARGUMENTS = [
    ({"path": 3}, TypeError, "path must be a path. Got int."),
    ({"path": "net.txt"}, ValueError, "path must end in .o or .obj. Got .*net.txt"),
    ({"path": "nowhere/net.o"}, FileNotFoundError, "path must be in a folder that is there. Got .*nowhere/net.o"),
    ({"target": "cortex-m1"}, ValueError, "target must be one of host, x86-64-v2, .*or a triple of .*Got 'cortex-m1'."),
    ({"target": 3}, TypeError, "target and cpu must be text. Got int and str."),
    ({"target": "cortex-m4", "cpu": "cortex-m7"}, ValueError, "cpu must be given with a triple alone. Got 'cortex-m7'"),
    ({"target": "aarch64-linux-gnu"}, ValueError, "cpu must be given with a triple, such as generic. Got the triple"),
    ({"target": "aarch64-linux-gnu", "cpu": "z80"}, ValueError, "cpu must be one that LLVM knows for .*Got 'z80'."),
    (
        {"target": "thumbfoo-none", "cpu": "x"},
        ValueError,
        "target must be a triple that LLVM knows. Got 'thumbfoo",
    ),
    ({"target": "pdp11-none", "cpu": "x"}, ValueError, "target must be one of host, .*Got 'pdp11-none'."),
    ({"name": "9lives"}, ValueError, "name must be an identifier of C's: .*Got '9lives'."),
    ({"name": "naïve"}, ValueError, "name must be an identifier of C's: .*Got 'naïve'."),
    ({"name": "_net"}, ValueError, "name must be an identifier of C's: .*Got '_net'."),
    ({"name": ""}, ValueError, "name must be an identifier of C's: .*Got ''."),
    ({"name": "restrict"}, ValueError, "name must be no word that C or C.. reserve. Got 'restrict'."),
    ({"name": "class"}, ValueError, "name must be no word that C or C.. reserve. Got 'class'."),
    ({"name": 3}, TypeError, "name must be text. Got int."),
    ({"path": "my-net.o"}, ValueError, "name must be an identifier of C's: .* --name .*Got 'my-net'."),
    ({"weights": "int4"}, ValueError, "weights must be one of float32, float16, int8. Got 'int4'."),
    ({"weights": torch.int8}, ValueError, "weights must be one of float32, float16, int8. Got torch.int8."),
    ({"target": "cortex-m4", "shared": True}, ValueError, "target must be this kind of machine .*Got cortex-m4."),
    ({"target": "windows-x86-64", "shared": True}, ValueError, "target must be this kind of machine"),
]


@pytest.mark.parametrize(("given", "error", "text"), ARGUMENTS)
def test_arguments(given, error, text, tmp_path):
    path = given.pop("path", "net.o") if "path" in given else "net.o"
    with pytest.raises(error, match=text):
        export_object(GRU(3, 4), path if isinstance(path, int) else tmp_path / path, **given)
    assert not list(tmp_path.iterdir())


def test_a_shared_library_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(RuntimeError, match=r"a shared library must have a C compiler: cc, gcc, clang. None is there."):
        export_object(GRU(3, 4), tmp_path / "net.o", shared=True)
    monkeypatch.setenv("CC", "/bin/false")
    with pytest.raises(RuntimeError, match=r"the C compiler must link the object. It said:"):
        export_object(GRU(3, 4), tmp_path / "net.o", shared=True)
    assert not list(tmp_path.iterdir())


def test_where_one_file_can_not_be_written_none_is(tmp_path):
    (tmp_path / "net.h").mkdir()
    (tmp_path / "net.o").write_text("before")
    with pytest.raises(OSError, match=r"net\.h must be a file"):
        export_object(GRU(3, 4), tmp_path / "net.o")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.h", "net.o"]
    assert (tmp_path / "net.o").read_text() == "before"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_one_s_own(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        export_object(GRU(3, 4), tmp_path / "net.o")


def test_a_model_stays_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), weight_norm(LSTM(3, 4), "weight_hh_l0"), nn.Dropout(0.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with torch.autocast("cpu"):
        export_object(model, tmp_path / "net.o", weights="int8")
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    needs("gcc")
    subprocess.run(["gcc", "net_check.c", "net.o", "-o", "net"], cwd=tmp_path, check=True)
    subprocess.run(["./net"], cwd=tmp_path, check=True)

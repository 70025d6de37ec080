"""Cells are pickled as functions are: by reference, and by value by what does so with functions of __main__."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch import tanh
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent
from tests.support.kernels.compiling import ROOT

MAKES = """
import sys
import cloudpickle, torch, gatefuse
from torch import tanh

SCALE = 0.5

def squashed(v):
    return SCALE * tanh(v)

@gatefuse.cell(gates="a b", init={"m": 0.25})
def unit(x, R, h, m, *, p):
    m = squashed(x.a + R.a(h)) + p * m
    return m * torch.sigmoid(x.b + R.b(h)), m

layer = gatefuse.Recurrent(unit, 3, 4, num_layers=2)
x = torch.randn(5, 2, 3)
with open(sys.argv[1], "wb") as file:
    cloudpickle.dump((unit, layer, x, layer(x)), file)
"""
READS = """
import io, sys, pickle
import cloudpickle, torch
with open(sys.argv[1], "rb") as file:
    cell, layer, x, expected = pickle.load(file)
assert layer.cell is cell
assert (cell.name, cell.__qualname__, cell.gates, cell.init) == ("unit", "unit", ("a", "b"), (0.0, 0.25)), cell
for driver in ("eager", "aten", "llvm", "script"):
    layer.driver = driver
    torch.testing.assert_close(layer(x), expected)
again = cloudpickle.loads(cloudpickle.dumps(layer))
torch.testing.assert_close(again(x), expected)
assert again.cell.__qualname__ == "unit"
"""


@gatefuse.cell(gates="a", init={"h": 0.5})
def leaky(x, R, h):
    return 0.5 * h + tanh(x.a + R.a(h))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_takes_a_cell_by_reference(protocol):
    for _ in range(2):
        text = pickle.dumps(leaky, protocol)
        assert __name__.encode() in text
        assert pickle.loads(text) is leaky
    layer = Recurrent(leaky, 3, 4)
    found = pickle.loads(pickle.dumps(layer, protocol))
    assert found.cell is leaky
    x = torch.randn(5, 2, 3)
    assert_close(found(x), layer(x))


def test_pickle_takes_shipped_cells_by_reference():
    for name in gatefuse.cell_names():
        cell = gatefuse.find_cell(name)
        assert pickle.loads(pickle.dumps(cell)) is cell


def test_pickle_refuses_a_cell_that_it_can_not_refer_to():
    @gatefuse.cell(gates="a")
    def local(x, R, h):
        return tanh(x.a + R.a(h))

    with pytest.raises((pickle.PicklingError, AttributeError), match=r"local\.equations|local object"):
        pickle.dumps(local)


@pytest.mark.slow
def test_cloudpickle_takes_a_cell_of_main_by_value(tmp_path):
    pytest.importorskip("cloudpickle")
    for program in (MAKES, READS):
        (tmp_path / "program.py").write_text(program)
        command = [sys.executable, "-W", "ignore", tmp_path / "program.py", tmp_path / "cell.pickle"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_cloudpickle_refers_to_a_cell_of_a_module():
    cloudpickle = pytest.importorskip("cloudpickle")
    assert cloudpickle.loads(cloudpickle.dumps(leaky)) is leaky

"""A program in a file runs the very equations that it was made of, in whatever process, or says why not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn, tanh

import gatefuse
from gatefuse import Recurrent, cell
from tests.support.layers import WITHOUT_INPUTS

T, B, I, H = 5, 2, 3, 4

_CELL = """
@gatefuse.cell(gates="a")
def unit(x, R, h):
    return {}(x.a + R.a(h)) * {}
"""
_LOAD = """
import sys, torch, gatefuse
{}
for path in sys.argv[1:]:
    x, y = torch.load(path + ".pt")
    program = torch.export.load(path + ".pt2").module()
    assert (program(x)[0] - y).abs().max() < 1e-6, path
    if {}:
        compiled = torch.compile(program, backend="aot_eager")
        assert (compiled(x)[0] - y).abs().max() < 1e-6, path
"""


def save(layer, path):
    x = torch.randn(T, B, I)
    torch.export.save(torch.export.export(layer, (x,)), f"{path}.pt2")
    torch.save((x, layer(x)[0].detach()), f"{path}.pt")
    return str(path)


def load(paths, definition="", compiled=False):
    text = _LOAD.format(textwrap.dedent(definition), compiled)
    command = [sys.executable, "-W", "ignore", "-c", text, *paths]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[3])


@pytest.mark.slow
def test_shipped_cells_that_nobody_has_used(tmp_path):
    paths = [save(Recurrent(name, I, H), tmp_path / name) for name in WITHOUT_INPUTS]
    run = load(paths, compiled=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A program with a cell of __main__, as a script's is."""
    path = tmp_path_factory.mktemp("program") / "unit"
    text = f"""
import torch, gatefuse
from torch import tanh
{_CELL.format("tanh", 0.5)}
layer, x = gatefuse.Recurrent(unit, {I}, {H}), torch.randn({T}, {B}, {I})
torch.export.save(torch.export.export(layer, (x,)), "{path}.pt2")
torch.save((x, layer(x)[0].detach()), "{path}.pt")
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return [str(path)]


@pytest.mark.slow
def test_an_own_cell_is_found_by_its_equations(program):
    same = "from torch import tanh\n" + _CELL.format("tanh", 0.5)
    assert load(program, same).returncode == 0
    # after another of that name, and with the number as a name of its own
    other = "rate = 0.5\n" + _CELL.format("torch.relu", 1) + "other = unit\n" + same.replace("* 0.5", "* rate")
    run = load(program, other)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (_CELL.format("torch.relu", 0.5), "a program must run the equations that it was made of. Got '__main__.unit:"),
        ("rate = 0.25\n" + _CELL.format("torch.tanh", "rate"), "where __main__.unit has other equations now"),
        ("", "cell must be the key of a cell defined in this process. Got '__main__.unit:"),
    ],
    ids=["other function", "other number", "none"],
)
def test_other_equations_are_refused(program, definition, says):
    run = load(program, definition)
    assert run.returncode != 0
    assert says in run.stderr


def test_what_a_file_cant_hold_is_refused():
    norm = nn.LayerNorm(H)
    unit = cell(gates="a")(lambda x, R, h: norm(tanh(x.a + R.a(h))))
    with pytest.raises(
        Exception, match=r"must be known by its equations alone\. Got the equations of <lambda> use norm"
    ):
        torch.export.export(Recurrent(unit, I, H), (torch.randn(T, B, I),))
    softmax = cell(gates="a")(lambda x, R, h: torch.softmax(x.a + R.a(h), -1))
    layer, x = Recurrent(softmax, I, H), torch.randn(T, B, I)
    program = torch.export.export(layer, (x,)).module()
    assert torch.equal(program(x)[0], layer(x)[0])


@pytest.mark.parametrize("driver", ["auto", "aten", "llvm", "eager"])
def test_compiled_layers_follow_numbers_or_say_so(driver):
    rate = 0.5

    @cell(gates="a")
    def unit(x, R, h):
        return tanh(x.a + R.a(h)) * rate

    layer, x = gatefuse.Recurrent(unit, I, H, driver=driver), torch.randn(20, B, I)
    compiled = torch.compile(layer, backend="aot_eager")
    assert torch.equal(compiled(x)[0], layer(x)[0])
    rate = 2.0
    assert torch.equal(compiled(x)[0], layer(x)[0])

"""Steps whose input is multiplied already, against a layer that multiplies it itself."""

import pytest
import torch
from torch.testing import assert_close

from gatefuse import Recurrent, find_cell
from gatefuse.models.others.steps import run, runs
from tests.support.layers import gradients

T, B, I, H = 6, 3, 4, 8
DOUBLE = {"dtype": torch.float64}


@pytest.mark.parametrize("driver", ["auto", "eager", "aten", "llvm", "script"])
@pytest.mark.parametrize("heads", [1, 2, H])
@pytest.mark.parametrize(("name", "bias"), [("slstm", True), ("li_gru", False), ("peephole_lstm", True)])
def test_as_a_layer(name, bias, heads, driver):
    cell = find_cell(name)
    layer = Recurrent(cell, I, H, bias=bias, heads=heads, driver="eager", **DOUBLE)
    W, R, *rest = layer.parameters()
    b_ih, b_hh, *parameters = rest if bias else (None, None, *rest)
    x = torch.randn(T, B, I, **DOUBLE, requires_grad=True)
    states = [torch.rand(B, H, **DOUBLE).add(0.1).requires_grad_() for _ in cell.states]
    product = torch.nn.functional.linear(x, W, b_ih)
    found = run(cell, driver, product, states, R, b_hh, parameters, heads=heads)
    given = tuple(s[None] for s in states)
    output, finals = layer(x, given if len(given) > 1 else given[0])
    expected = output, tuple(s[0] for s in (finals if isinstance(finals, tuple) else (finals,)))
    assert_close(found, expected, rtol=1e-11, atol=1e-12)
    leaves = [x, *states, *layer.parameters()]
    assert_close(gradients(found, leaves), gradients(expected, leaves), rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        again = run(cell, driver, product, states, R, b_hh, parameters, heads=heads)
    assert_close(again, expected, rtol=1e-11, atol=1e-12)


def test_where_they_run():
    values = torch.randn(T, B, H)
    assert runs(values)
    assert runs(values, torch.randn(2))
    assert not runs(values, torch.randn(2, **DOUBLE))
    assert not runs(values.to(torch.bfloat16))
    assert not runs(values.to("meta"))
    assert not runs(values[:0])
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs(values)
    inside = []
    torch.func.vmap(lambda v: inside.append(runs(v)) or v)(values)
    assert inside == [False]

"""Values that several of a step's parts share are computed in one of them."""

import pytest
import torch
from torch.testing import assert_close

from gatefuse import Recurrent, cell, cell_names, find_cell
from gatefuse.kernels.codegen.llvm.kept_values import backward_plan, forward_plan
from gatefuse.kernels.codegen.llvm.parts import backward_parts, forward_parts
from gatefuse.kernels.equations.expression import walk
from gatefuse.kernels.equations.operators import PRIMITIVES

MEANS = ("layer_norm_lstm", "layer_norm_gru")


def transcendentals(parts):
    return [e for part in parts for e in walk(part.results) if e.op in PRIMITIVES and PRIMITIVES[e.op].transcendental]


@pytest.mark.parametrize(
    ("name", "plan", "parts"),
    [(name, *way) for name in MEANS for way in ((forward_plan, forward_parts), (backward_plan, backward_parts))],
)
def test_nothing_long_is_computed_twice(name, plan, parts):
    program = find_cell(name).program
    before = transcendentals(parts(program))
    found, kept = plan(program)
    once = len({id(e) for e in before})
    assert len(transcendentals(found)) == once
    # a GRU's are in one part forward
    assert (once < len(before)) is ((name, plan) != ("layer_norm_gru", forward_plan))
    # each is kept by one part, and read by later ones alone
    places = {number: k for k, part in enumerate(found) for number in part.kept}
    assert sorted(places) == list(range(len(kept)))
    for number, value in enumerate(kept):
        readers = [k for k, part in enumerate(found) if value in part.inputs]
        assert readers
        assert min(readers) > places[number]


@pytest.mark.parametrize("name", [name for name in cell_names() if name not in MEANS])
def test_a_cell_without_means_keeps_none(name):
    program = find_cell(name).program
    for plan, parts in ((forward_plan, forward_parts), (backward_plan, backward_parts)):
        assert plan(program) == (list(parts(program)), [])


def test_truths_are_computed_anew_and_names_are_the_cell_s():
    """A comparison is no number that could be kept."""

    def choosing(x, R, kept0, *, kept1):
        a = torch.exp(x.a + R.a(kept0)) - kept1
        chosen = torch.where(torch.tanh(a) > torch.sin(a), a, 0.1 * a)
        return torch.tanh(torch.where(torch.tanh(a) > torch.sin(a), chosen.mean(-1, keepdim=True) * kept0, a))

    unit = cell(gates="a")(choosing)
    assert set(forward_plan(unit.program)[1]).isdisjoint({"kept0", "kept1"})
    layer = Recurrent(unit, 3, 21, dtype=torch.float64)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    found = []
    for driver in ("eager", "llvm"):
        layer.driver = driver
        output = layer(x)[0]
        found.append([output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))])
    assert_close(*found)

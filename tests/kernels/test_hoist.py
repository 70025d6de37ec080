"""The backward of a program, divided: what is left in the loop, and that it is the same gradient."""

import pytest
import torch

import gatefuse
from gatefuse import cell_names, find_cell
from gatefuse.kernels.codegen.hoist import hoist
from gatefuse.kernels.codegen.torch_functions import torch_functions, torch_source
from gatefuse.kernels.equations.expression import input_names, walk
from tests.support import made_up_cells

OWN = [value for value in vars(made_up_cells).values() if isinstance(value, gatefuse.Cell)]


@gatefuse.cell(gates="a b")
def names_like_a_factors(x, R, h, *, f0):
    return f0 * torch.sigmoid(x.a + R.a(h)) + torch.tanh(x.b + R.b(h))


@gatefuse.cell(gates="a")
def large_factors(x, R, h):
    """Two exponentials in a gradient, whose product overflows where each alone doesn't."""
    return torch.exp(torch.exp(x.a + R.a(h)))


def operations(expressions):
    return sum(bool(e.args) for e in walk(expressions))


@pytest.mark.parametrize(("cell", "left"), [("lstm", 7), ("gru", 5), ("gru_reset_first", 6), ("elman", 1)])
def test_little_is_left_of_a_step(cell, left):
    """Counted by hand: of an LSTM the sum t0 = d_c + d_h * f0, and six products."""
    assert sum(operations(roots) for roots in hoist(find_cell(cell).program).phases) == left


@pytest.mark.parametrize(
    "cell", [*map(find_cell, cell_names()), *OWN, names_like_a_factors], ids=lambda cell: cell.name
)
def test_each_side_holds_what_it_may(cell):
    hoisted = hoist(cell.program)
    serial = {f"d_{s}" for s in cell.states} | {f"d_v{k}" for k in range(len(cell.program.products))}
    assert input_names(hoisted.factors).isdisjoint(serial)
    assert len(set(hoisted.names)) == len(hoisted.factors)
    for roots in hoisted.phases:
        assert input_names(roots) <= serial | set(hoisted.names) | set(cell.parameters)
    assert input_names(hoisted.parameters).isdisjoint(serial)
    assert sorted(hoisted.early + hoisted.late) == list(range(len(cell.parameters)))


@pytest.mark.parametrize("driver", ["aten", "llvm"])
def test_a_parameter_may_be_named_as_factors_are(driver):
    layer = gatefuse.Recurrent(names_like_a_factors, 3, 4, driver=driver, dtype=torch.float64)
    oracle = gatefuse.Recurrent(names_like_a_factors, 3, 4, driver="eager", dtype=torch.float64)
    oracle.load_state_dict(layer.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    found = [torch.autograd.grad(m(x)[0].square().sum(), list(m.parameters())) for m in (layer, oracle)]
    torch.testing.assert_close(*found)


def test_factors_that_may_overflow_are_not_multiplied_with_each_other():
    functions = torch_functions(large_factors)
    slots = [torch.full((1, 1, 1), 4.45)]
    assert not (slots[0].exp().exp() * slots[0].exp()).isfinite()
    factors = functions.factors(slots, [torch.ones(1, 1, 1)], ())
    assert all(factor.isfinite().all() for factor in factors)
    found = functions.backward[0]([f[0] for f in factors], (), [torch.zeros(1, 1)], [None])
    assert not found[0].any()


def test_the_source_reads_like_the_gradient():
    source = torch_source(find_cell("lstm").program)
    assert "t0 = d_c + d_h * f0" in source
    assert "    t0 * f1,  # d_a_i\n" in source
    assert "    None,  # d_h\n" in source

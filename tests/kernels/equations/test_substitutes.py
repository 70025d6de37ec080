"""What messages propose in the place of operators that can't be translated: the same numbers, and translated."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import gatefuse
from gatefuse.kernels.equations.substitutes import SUBSTITUTES

ROW = {"dim": -1, "keepdim": True}
ORIGINALS = {
    "norm": lambda v, w, u: v.norm(**ROW),
    "linalg_norm": lambda v, w, u: torch.linalg.norm(v, **ROW),
    "linalg_vector_norm": lambda v, w, u: torch.linalg.vector_norm(v, **ROW),
    "normalize": lambda v, w, u: F.normalize(v, dim=-1),
    "softmax": lambda v, w, u: torch.softmax(v, -1),
    "logsumexp": lambda v, w, u: torch.logsumexp(v, **ROW),
    "std": lambda v, w, u: v.std(**ROW),
    "max": lambda v, w, u: v.max(**ROW).values,
    "amin": lambda v, w, u: v.amin(**ROW),
    "min": lambda v, w, u: v.min(**ROW).values,
    "lerp": lambda v, w, u: torch.lerp(v, w, 0.3),
    "addcmul": lambda v, w, u: torch.addcmul(v, w, u, value=0.7),
    "addcdiv": lambda v, w, u: torch.addcdiv(v, w, u, value=0.7),
    "tan": lambda v, w, u: torch.tan(v),
    "sinh": lambda v, w, u: torch.sinh(v),
    "cosh": lambda v, w, u: torch.cosh(v),
    "exp2": lambda v, w, u: torch.exp2(v),
    "log2": lambda v, w, u: torch.log2(v),
    "mish": lambda v, w, u: F.mish(v),
}
IN_WORDS = {"dropout": lambda v, w, u: F.dropout(v), "getitem": lambda v, w, u: torch.cat([v[:, :1], w[:, 1:]], -1)}


def cell_of(function):
    @gatefuse.cell(gates="w u")
    def own(x, R, h):
        v = 1.5 + torch.tanh(x.w + R.w(h))
        return torch.tanh(function(v, torch.tanh(x.u), 2 + h) + 0 * h)

    return own


def of_the_state(function):
    @gatefuse.cell(gates="a")
    def own(x, R, h):
        return torch.tanh(x.a + R.a(h) * (1 + function(h, h, h)))

    return own


def proposed(name):
    text = SUBSTITUTES[name].replace("weight", "0.3").replace("value", "0.7")
    return eval(f"lambda v, w, u: {text}", {"torch": torch})


def test_every_proposal_is_tried():
    assert SUBSTITUTES.keys() == ORIGINALS.keys() | IN_WORDS.keys()


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_operator_is_refused_and_what_is_proposed_is_not(name):
    torch.manual_seed(0)
    theirs = gatefuse.Recurrent(cell_of(ORIGINALS[name]), 3, 5, dtype=torch.float64)
    ours = gatefuse.Recurrent(cell_of(proposed(name)), 3, 5, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    refused = theirs.plan(x).refused["script"]
    assert f"; for {name} write {SUBSTITUTES[name]}. Got {name}, which" in refused
    assert ours.plan(x).driver == "llvm"
    assert_close(ours(x)[0], theirs(x)[0])


@pytest.mark.parametrize("name", IN_WORDS)
def test_what_is_proposed_in_words(name):
    refused = gatefuse.Recurrent(cell_of(IN_WORDS[name]), 3, 5).plan(torch.randn(6, 2, 3)).refused["script"]
    assert f"; for {name} write {SUBSTITUTES[name]}. Got {name}, which" in refused


@pytest.mark.parametrize("name", ["norm", "normalize", "std"])
def test_gradients_are_finite_where_all_is_zero(name):
    """As the first state is, of which torch's own functions have the gradient."""
    layer = gatefuse.Recurrent(of_the_state(proposed(name)), 3, 5)
    theirs = gatefuse.Recurrent(of_the_state(ORIGINALS[name]), 3, 5)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(6, 2, 3)
    for each in (layer, theirs):
        each(x)[0].sum().backward()
    assert layer.plan(x).driver == "llvm"
    assert layer.weight_hh_l0.grad.isfinite().all()
    assert_close(layer.weight_hh_l0.grad, theirs.weight_hh_l0.grad)

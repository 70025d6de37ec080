"""Calls of a form that torch.nn's own forward has run before: torch's function at once, to the bit."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import find_cell
from gatefuse.kernels.drivers.vendor import torch_rnn
from gatefuse.models.execution.repeated import repeated
from tests.support.layers import flat, gradients

I, H, B = 3, 5, 2
NAMES = ("LSTM", "GRU", "RNN")


@pytest.fixture
def taken(monkeypatch):
    """Calls that went the short way, of which no form is known yet."""
    for name in ("lstm", "gru", "elman"):
        find_cell(name).current().made.pop(repeated, None)
    found, whole = [], torch_rnn.call
    monkeypatch.setattr(torch_rnn, "call", lambda *given, **how: found.append(given) or whole(*given, **how))
    return found


def pair(name, driver="vendor", **options):
    theirs = getattr(nn, name)(I, H, **options)
    ours = copy.deepcopy(theirs)
    gatefuse.accelerate(ours, driver=driver)
    return theirs, ours


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_second_call_gives_torchs_bits(taken, name, options, T):
    theirs, ours = pair(name, **options)
    x = torch.randn(*((B, T) if options else (T, B)), I)
    state = None
    for k in range(3):
        found, expected = ours(x, state), theirs(x, state)
        assert len(taken) == k
        assert_close(flat(found), flat(expected), rtol=0, atol=0)
        mine = gradients(found, list(ours.parameters()))
        assert_close(mine, gradients(expected, list(theirs.parameters())), rtol=0, atol=0)
        state = tuple([s.detach() for s in found[1]]) if name == "LSTM" else found[1].detach()
    with torch.no_grad():
        for _ in range(2):
            assert_close(flat(ours(x, state)), flat(theirs(x, state)), rtol=0, atol=0)
    assert len(taken) == 3


def test_what_torch_refuses_it_refuses_still(taken):
    _, layer = pair("LSTM")
    x = torch.randn(4, B, I)
    layer(x)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(1, 2, 5\), got \[1, 3, 5\]|must have shape"):
        layer(x, (torch.zeros(1, 3, H), torch.zeros(1, 3, H)))
    with pytest.raises(RuntimeError, match=r"must have|size"):
        layer(torch.randn(4, B, I + 1))
    assert not taken


def test_what_is_of_another_form_goes_the_whole_way(taken):
    theirs, ours = pair("LSTM", num_layers=2, dropout=0.5)
    x = torch.randn(4, B, I)
    for _ in range(2):  # in training something is dropped
        torch.manual_seed(0)
        found = ours(x)
        torch.manual_seed(0)
        assert_close(flat(found), flat(theirs(x)), rtol=0, atol=0)
    packed = pack_sequence([torch.randn(4, I), torch.randn(2, I)])
    for given in (packed, x[:, 0]):
        for layer in (theirs.eval(), ours.eval()):
            layer(given), layer(given)
    with torch.autocast("cpu", torch.bfloat16):
        assert [v.dtype for v in flat(ours(x))] == [v.dtype for v in flat(theirs(x))]
    assert not taken

"""What gatefuse.scripted can't script, and what a script refuses, in words."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent
from tests.models.test_scripted import DOUBLE, B, H, I, T, x


class Keywords(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.rnn(x, lengths=lengths)[0]


class AllStates(Keywords):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.rnn(x, all_states=True)[1]


WRONG = {
    "rank": (lambda s: s(torch.zeros(2, **DOUBLE)), "x must have the shape (T, I), or (T, B, I)"),
    "size": (lambda s: s(torch.zeros(T, B, 9, **DOUBLE)), "x must have input_size 2 as its last dimension. Got 9."),
    "steps": (lambda s: s(torch.zeros(0, B, I, **DOUBLE)), "x must have at least one step. Got T = 0."),
    "state": (lambda s: s(x(), torch.zeros(1, 2, H, **DOUBLE)), "a state must have shape [1, 3, 3]. Got [1, 2, 3]."),
    "lengths": (lambda s: s(x(), lengths=torch.ones(2)), "lengths must have shape (3,), one for each sample. Got [2]."),
    "resets": (lambda s: s(x(), resets=torch.ones(T, B)), "resets must be bool and of x's shape but for features."),
    "reset_state": (
        lambda s: s(x(), reset_state=torch.zeros(1, B, H)),
        "reset_state must come with resets. Got reset_state alone.",
    ),
}


def test_a_script_refuses_bad_input():
    script = gatefuse.scripted(Recurrent("gru", I, H, **DOUBLE))
    for call, text in WRONG.values():
        with pytest.raises(torch.jit.Error, match=re.escape(text)):
            call(script)


class Derived(gatefuse.LSTM):
    pass


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


@gatefuse.cell(gates="a")
def soft(x, R, h):
    return torch.softmax(x.a + R.a(h), -1)


REFUSED = {
    "no module": (lambda: torch.tanh, TypeError, "model must be a torch.nn.Module. Got builtin_function_or_method."),
    "a subclass": (lambda: nn.Sequential(Derived(I, H)), ValueError, "Derived as 0."),
    "a parametrization": (
        lambda: parametrize.register_parametrization(Recurrent("gru", I, H), "weight_hh_l0", Half()),
        ValueError,
        "a layer must be of gatefuse's very classes to be scripted, not of one derived from them. Got ",
    ),
    "a cell of other operators": (
        lambda: Recurrent(soft, I, H),
        ValueError,
        "a cell must be translatable to be scripted. Got soft: ",
    ),
    "lengths of an LSTM": (
        lambda: Keywords(gatefuse.LSTM(I, H)),
        ValueError,
        "LSTM, GRU and RNN none of these; all_states has no form there. Got lengths.",
    ),
    "all states": (lambda: AllStates(Recurrent("gru", I, H)), ValueError, "Got all_states."),
}


@pytest.mark.parametrize(("build", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_scripted_says_why(build, error, text):
    with pytest.raises(error, match=re.escape(text)):
        gatefuse.scripted(build())


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projections_within_a_model_alone():
    layer = gatefuse.LSTM(I, H, proj_size=2, **DOUBLE)
    assert_close(gatefuse.scripted(nn.Sequential(layer))(given := x()), layer(given))
    with pytest.raises(ValueError, match=re.escape("a model must not be a layer with a projection itself")):
        gatefuse.scripted(layer)

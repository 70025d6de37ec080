"""What counterparts of torch.nn say to states of another form, where torch.nn fails by accident or says little."""

import re

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from gatefuse import GRU, LSTM, RNN, GRUCell, LSTMCell

T, B, I, H = 5, 3, 4, 6


def x(*shape):
    return torch.randn(*(shape or (T, B, I)))


def packed():
    return pack_padded_sequence(x(), torch.tensor([5, 4, 3]))


FORMS = {
    "LSTM, one tensor": (lambda new: new(LSTM)(x(), x(1, B, H)), TypeError, "hx must be a tuple (h, c). Got Tensor."),
    "LSTM, one of two": (
        lambda new: new(LSTM)(x(), (x(1, B, H),)),
        RuntimeError,
        "hx must be a tuple (h, c). Got 1 of 2.",
    ),
    "LSTM, None": (lambda new: new(LSTM)(x(), (x(1, B, H), None)), TypeError, "hx c must be a tensor. Got NoneType."),
    "LSTM, rank": (
        lambda new: new(LSTM)(x(), (x(B, H), x(B, H))),
        RuntimeError,
        "hx h must have shape (1, 3, 6). Got (3, 6).",
    ),
    "LSTM, packed": (lambda new: new(LSTM)(packed(), x(1, B, H)), TypeError, "hx must be a tuple (h, c). Got Tensor."),
    "LSTM, no tensor": (
        lambda new: new(LSTM)([[1.0]]),
        TypeError,
        "input must be a tensor or a PackedSequence. Got list.",
    ),
    "LSTM, dtype": (
        lambda new: new(LSTM)(x().double()),
        ValueError,
        "x must have the weights' dtype torch.float32. Got torch.float64.",
    ),
    "GRU, a pair": (
        lambda new: new(GRU)(x(), (x(1, B, H),) * 2),
        TypeError,
        "hx must be one tensor, since gru has one state. Got tuple.",
    ),
    "GRU, packed": (
        lambda new: new(GRU)(packed(), (x(1, B, H),)),
        TypeError,
        "hx must be one tensor, since gru has one state. Got tuple.",
    ),
    "RNN, rank": (
        lambda new: new(RNN)(x(), x(B, H)),
        RuntimeError,
        "hx h must have shape (1, 3, 6). Got (3, 6).",
    ),
    "LSTMCell, one tensor": (
        lambda new: new(LSTMCell)(x(B, I), x(B, H)),
        TypeError,
        "hx must be a tuple (h, c). Got Tensor.",
    ),
    "GRUCell, a pair": (
        lambda new: new(GRUCell)(x(B, I), (x(B, H),) * 2),
        TypeError,
        "hx must be one tensor, since gru has one state. Got tuple.",
    ),
}


@pytest.mark.parametrize("driver", ["auto", "vendor", "eager"])
@pytest.mark.parametrize(("call", "error", "text"), FORMS.values(), ids=FORMS.keys())
def test_forms_of_states(call, error, text, driver):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        call(lambda kind: kind(I, H, driver=driver))


def test_states_of_a_projection():
    layer = LSTM(I, H, proj_size=2)
    with pytest.raises(RuntimeError, match=re.escape("hx h must have shape (1, 3, 2). Got (3, 2).")):
        layer(x(), (x(B, 2), x(B, H)))

"""What torch.nn refuses, its counterparts here refuse with an exception of the same type, whoever runs the loop.

Where torch.nn fails by accident, with an AttributeError or an IndexError from within, these say what is wrong with the
type that suits it.
"""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import gatefuse
from gatefuse.models.layers import rnn_cells

T, B, I, H = 5, 3, 4, 6
LAYERS, CELLS = ("LSTM", "GRU", "RNN"), ("LSTMCell", "GRUCell", "RNNCell")
ACCIDENTS = (AttributeError, IndexError)


def x(*shape, **options):
    return torch.randn(*(shape or (T, B, I)), **options)


def state(module, *shape, **options):
    value = torch.randn(*shape, **options)
    return (value, value.clone()) if isinstance(module, (nn.LSTM, nn.LSTMCell)) else value


def other_form(module, value):
    """A tensor for a tuple, and a tuple for a tensor."""
    return value if isinstance(module, (nn.LSTM, nn.LSTMCell)) else (value,)


def packed(value):
    return pack_padded_sequence(value, torch.tensor([5, 4, 3]))


LAYER_CALLS = {
    "one dimension": lambda m: m(x(4)),
    "four dimensions": lambda m: m(x(1, T, B, I)),
    "features": lambda m: m(x(T, B, 7)),
    "dtype": lambda m: m(x().double()),
    "ints": lambda m: m(torch.zeros(T, B, I, dtype=torch.int64)),
    "half": lambda m: m(x().half()),
    "no tensor": lambda m: m([[1.0]]),
    "None": lambda m: m(None),
    "no argument": lambda m: m(),
    "another keyword": lambda m: m(x(), mask=None),
    "no steps": lambda m: m(x(0, B, I)),
    "no steps, no batch": lambda m: m(x(0, I)),
    "device": lambda m: m(x(device="meta")),
    "state batch": lambda m: m(x(), state(m, 1, 2, H)),
    "state layers": lambda m: m(x(), state(m, 2, B, H)),
    "state size": lambda m: m(x(), state(m, 1, B, 7)),
    "state rank": lambda m: m(x(), state(m, B, H)),
    "state with a batch": lambda m: m(x(T, I), state(m, 1, B, H)),
    "state size, no batch": lambda m: m(x(T, I), state(m, 2, H)),
    "state dtype": lambda m: m(x(), state(m, 1, B, H, dtype=torch.float64)),
    "state device": lambda m: m(x(), state(m, 1, B, H, device="meta")),
    "state form": lambda m: m(x(), other_form(m, x(1, B, H))),
    "three states": lambda m: m(x(), (x(1, B, H),) * 3),
    "one state": lambda m: m(x(), (x(1, B, H),)),
    "no second state": lambda m: m(x(), (x(1, B, H), None)),
    "text for a state": lambda m: m(x(), "zeros"),
    "packed features": lambda m: m(packed(x(T, B, 7))),
    "packed state": lambda m: m(packed(x()), state(m, 1, 2, H)),
    "packed state rank": lambda m: m(packed(x()), state(m, B, H)),
}

CELL_CALLS = {
    "no dimensions": lambda m: m(torch.randn(())),
    "three dimensions": lambda m: m(x()),
    "features": lambda m: m(x(B, 7)),
    "features, no batch": lambda m: m(x(7)),
    "dtype": lambda m: m(x(B, I).double()),
    "ints": lambda m: m(torch.zeros(B, I, dtype=torch.int64)),
    "no tensor": lambda m: m([1.0]),
    "None": lambda m: m(None),
    "device": lambda m: m(x(B, I, device="meta")),
    "state batch": lambda m: m(x(B, I), state(m, 2, H)),
    "state size": lambda m: m(x(B, I), state(m, B, 7)),
    "state rank": lambda m: m(x(B, I), state(m, 1, B, H)),
    "state without a batch": lambda m: m(x(B, I), state(m, H)),
    "state with a batch": lambda m: m(x(I), state(m, B, H)),
    "state size, no batch": lambda m: m(x(I), state(m, 7)),
    "state dtype": lambda m: m(x(B, I), state(m, B, H, dtype=torch.float64)),
    "state device": lambda m: m(x(B, I), state(m, B, H, device="meta")),
    "state form": lambda m: m(x(B, I), other_form(m, x(2, B, H))),
    "three states": lambda m: m(x(B, I), (x(B, H),) * 3),
    "one state": lambda m: m(x(B, I), (x(B, H),)),
    "no second state": lambda m: m(x(B, I), (x(B, H), None)),
}

ARGUMENTS = {
    "no hidden size": {"hidden_size": 0},
    "negative hidden size": {"hidden_size": -1},
    "no input size": {"input_size": 0},
    "a float": {"hidden_size": 6.0},
    "text": {"input_size": "4"},
    "bias": {"bias": "no"},
    "batch_first": {"batch_first": 1},
    "dropout": {"dropout": 2.0},
    "dropout type": {"dropout": True},
    "layers": {"num_layers": 0},
    "half a layer": {"num_layers": 1.5},
    "projection": {"proj_size": H},
    "negative projection": {"proj_size": -1},
    "nonlinearity": {"nonlinearity": "sin"},
    "unknown": {"units": 3},
    "dtype": {"dtype": torch.int32},
    "device": {"device": "nowhere"},
}


def outcome(call):
    """The type that a call raises, or None."""
    try:
        call()
    except Exception as error:
        return type(error)
    return None


def assert_same_type(theirs, ours):
    if theirs in ACCIDENTS:
        assert ours in (TypeError, ValueError, RuntimeError)
    else:
        assert ours is theirs


CALLS = [(name, case, call) for name in LAYERS for case, call in LAYER_CALLS.items()]
CALLS += [(name, case, call) for name in CELLS for case, call in CELL_CALLS.items()]


@pytest.mark.parametrize("driver", ["auto", "vendor", "eager"])
@pytest.mark.parametrize(("name", "case", "call"), CALLS, ids=[f"{name}-{case}" for name, case, _ in CALLS])
def test_calls(name, case, call, driver):
    theirs, ours = getattr(nn, name)(I, H), getattr(gatefuse, name)(I, H, driver=driver)
    assert_same_type(outcome(lambda: call(theirs)), outcome(lambda: call(ours)))


@pytest.mark.parametrize("case", CELL_CALLS)
@pytest.mark.parametrize("name", CELLS)
def test_calls_of_cells_that_would_be_compiled(monkeypatch, name, case):
    monkeypatch.setattr(rnn_cells, "_LARGE", 1)
    theirs, ours = getattr(nn, name)(I, H), getattr(gatefuse, name)(I, H)
    with torch.no_grad():
        assert_same_type(outcome(lambda: CELL_CALLS[case](theirs)), outcome(lambda: CELL_CALLS[case](ours)))


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_constructors(name, arguments):
    theirs, *ours = (
        outcome(lambda make=make: make(**{"input_size": I, "hidden_size": H, **arguments}))
        for make in (
            getattr(nn, name),
            getattr(gatefuse, name),
            lambda **options: getattr(gatefuse, name)(driver="eager", **options),
        )
    )
    for found in ours:
        assert_same_type(theirs, found)

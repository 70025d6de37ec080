"""What layers say to bad input: the rule, then the fact, in the type that torch.nn raises where it has one."""

import re

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import gatefuse
from gatefuse import LSTM, LSTMCell, Recurrent

T, B, I, H = 5, 3, 4, 6
STATE = (2, B, H)


def x(*shape, **options):
    return torch.randn(*(shape or (T, B, I)), **options)


def layer(cell="lstm", **options):
    return Recurrent(cell, I, H, **{"num_layers": 2, **options})


def packed():
    return pack_padded_sequence(x(), torch.tensor([5, 4, 3]))


def mask(*shape, dtype=torch.bool):
    return torch.zeros(*(shape or (T, B)), dtype=dtype)


CONSTRUCTORS = {
    "cell name": (lambda: Recurrent("lstn", I, H), ValueError, "cell must be one of elman, elman_relu, lstm,"),
    "cell type": (lambda: Recurrent(torch.tanh, I, H), TypeError, "made by gatefuse.cell. Got builtin_function"),
    "driver": (
        lambda: layer(driver="cuda"),
        ValueError,
        "driver must be one of auto, eager, script, aten, llvm, step, block, grid, vendor. Got 'cuda'.",
    ),
    "driver of LSTM": (lambda: LSTM(I, H, driver="fast"), ValueError, "driver must be one of auto,"),
    "driver of LSTMCell": (lambda: LSTMCell(I, H, driver="fast"), ValueError, "driver must be one of auto,"),
    "hidden size": (lambda: Recurrent("gru", I, 0), ValueError, "hidden_size must be greater than zero. Got 0."),
    "input size": (lambda: Recurrent("gru", -1, H), ValueError, "input_size must be greater than zero. Got -1."),
    "layers": (lambda: layer(num_layers=0), ValueError, "num_layers must be greater than zero. Got 0."),
    "size type": (lambda: Recurrent("gru", I, 6.0), TypeError, "hidden_size must be an int. Got float."),
    "bias": (lambda: layer(bias=1), TypeError, "bias must be a bool. Got int."),
    "batch_first": (lambda: layer(batch_first="yes"), TypeError, "batch_first must be a bool. Got str."),
    "bidirectional": (lambda: layer(bidirectional=2), TypeError, "bidirectional must be a bool. Got int."),
    "dropout": (lambda: layer(dropout=1.5), ValueError, "dropout must be a number from 0 to 1. Got 1.5."),
    "dropout type": (lambda: layer(dropout=True), ValueError, "dropout must be a number from 0 to 1. Got True."),
    "dtype's name": (lambda: layer(dtype="float32"), TypeError, "dtype must be a torch.dtype. Got 'float32'."),
    "dtype": (lambda: layer(dtype=torch.int32), RuntimeError, "dtype must be a floating type. Got torch.int32."),
}

CALLS = {
    "no tensor": (lambda: layer()([[1.0]]), TypeError, "x must be a tensor. Got list."),
    "rank": (
        lambda: layer()(x(4)),
        ValueError,
        "x must have the shape (T, I), or (T, B, I), with batch_first (B, T, I). Got (4,).",
    ),
    "size": (lambda: layer()(x(T, B, 7)), RuntimeError, "x must have input_size 4 as its last dimension. Got 7."),
    "dtype": (
        lambda: layer()(x(dtype=torch.float64)),
        ValueError,
        "x must have the weights' dtype torch.float32. Got torch.float64.",
    ),
    "ints": (
        lambda: layer()(mask(T, B, I, dtype=torch.int64)),
        ValueError,
        "x must have the weights' dtype torch.float32. Got torch.int64.",
    ),
    "device": (lambda: layer()(x(device="meta")), RuntimeError, "x must be on the weights' device cpu. Got meta."),
    "states": (lambda: layer()(x(), x(*STATE)), TypeError, "state must be a tuple (h, c). Got Tensor."),
    "too few states": (lambda: layer()(x(), (x(*STATE),)), RuntimeError, "state must be a tuple (h, c). Got 1 of 2."),
    "one state": (
        lambda: layer("gru")(x(), (x(*STATE),)),
        TypeError,
        "state must be one tensor, since gru has one state. Got tuple.",
    ),
    "state is none": (lambda: layer()(x(), (x(*STATE), None)), TypeError, "state c must be a tensor. Got NoneType."),
    "state shape": (
        lambda: layer()(x(), (x(*STATE), x(3, 2, H))),
        RuntimeError,
        "state c must have shape (2, 3, 6). Got (3, 2, 6).",
    ),
    "state rank": (lambda: layer("gru")(x(), x(B, H)), RuntimeError, "state h must have shape (2, 3, 6). Got (3, 6)."),
    "state without a batch": (
        lambda: layer("gru")(x(T, I), x(*STATE)),
        RuntimeError,
        "state h must have shape (2, 6). Got (2, 3, 6).",
    ),
    "state dtype": (
        lambda: layer("gru")(x(), x(*STATE).half()),
        RuntimeError,
        "state h must have x's dtype torch.float32. Got torch.float16.",
    ),
    "state device": (
        lambda: layer("gru")(x(), x(*STATE, device="meta")),
        RuntimeError,
        "state h must be on x's device cpu. Got meta.",
    ),
    "lengths type": (lambda: layer()(x(), lengths=5), TypeError, "lengths must be a tensor or a list of ints. Got 5."),
    "lengths of floats": (
        lambda: layer()(x(), lengths=[1.0, 2.0, 3.0]),
        TypeError,
        "lengths must be a tensor or a list of ints. Got [1.0, 2.0, 3.0].",
    ),
    "lengths dtype": (
        lambda: layer()(x(), lengths=x(B)),
        TypeError,
        "lengths must have an integer dtype. Got torch.float32.",
    ),
    "lengths shape": (
        lambda: layer()(x(), lengths=[1, 2]),
        ValueError,
        "lengths must have shape (3,), one for each sample. Got (2,).",
    ),
    "lengths batch first": (
        lambda: layer(batch_first=True)(x(), lengths=[1, 2, 3]),
        ValueError,
        "lengths must have shape (5,), one for each sample. Got (3,).",
    ),
    "too long": (lambda: layer()(x(), lengths=[1, 2, 6]), ValueError, "lengths must be from 0 to T = 5. Got 6."),
    "negative": (
        lambda: layer()(x(), lengths=torch.tensor([1, -2, 3])),
        ValueError,
        "lengths must be from 0 to T = 5. Got -2.",
    ),
    "lengths device": (
        lambda: layer()(x(), lengths=mask(B, dtype=torch.int64).to("meta")),
        RuntimeError,
        "lengths must be on x's device cpu or on the CPU. Got meta.",
    ),
    "rows of packed": (
        lambda: layer()(packed()._replace(data=x()[0])),
        RuntimeError,
        "a PackedSequence of these batch_sizes must have 12 rows. Got 3.",
    ),
    "dimensions of packed": (
        lambda: layer()(packed()._replace(data=x())),
        RuntimeError,
        "a PackedSequence's data must have shape (N, I). Got (5, 3, 4).",
    ),
    "sizes of packed": (
        lambda: layer()(packed()._replace(batch_sizes=torch.tensor([3, 3], dtype=torch.int32))),
        RuntimeError,
        "a PackedSequence's batch_sizes must be int64, one for each step. Got torch.int32 of shape (2,).",
    ),
    "dtype of packed": (
        lambda: layer()(packed().to(torch.float16)),
        RuntimeError,
        "x must have the weights' dtype torch.float32. Got torch.float16.",
    ),
    "lengths of packed": (
        lambda: layer()(packed(), lengths=[5, 4, 3]),
        ValueError,
        "lengths must be None with a PackedSequence",
    ),
    "resets of packed": (
        lambda: layer()(packed(), resets=mask()),
        ValueError,
        "resets must be None with a PackedSequence",
    ),
    "resets type": (lambda: layer()(x(), resets=[True]), TypeError, "resets must be a tensor. Got list."),
    "resets dtype": (
        lambda: layer()(x(), resets=mask(dtype=torch.int32)),
        TypeError,
        "resets must have dtype torch.bool. Got torch.int32.",
    ),
    "resets shape": (
        lambda: layer()(x(), resets=mask(B, T)),
        ValueError,
        "resets must have shape (5, 3), as x has but for features. Got (3, 5).",
    ),
    "resets device": (
        lambda: layer()(x(), resets=mask().to("meta")),
        RuntimeError,
        "resets must be on x's device cpu. Got meta.",
    ),
    "reset_state alone": (
        lambda: layer()(x(), reset_state=(torch.zeros(1, B, 4),) * 2),
        ValueError,
        "reset_state must come with resets. Got reset_state alone.",
    ),
    "reset_state shape": (
        lambda: layer()(x(), resets=mask(), reset_state=(torch.zeros(2, B, 4),) * 2),
        RuntimeError,
        "reset_state h must have shape (2, 3, 6). Got (2, 3, 4).",
    ),
    "vendor and resets": (
        lambda: layer(driver="vendor")(x(), resets=mask()),
        RuntimeError,
        "driver vendor can't run this call: torch's own loop has no resets.",
    ),
    "vendor and another cell": (
        lambda: layer("slstm", driver="vendor")(x()),
        RuntimeError,
        "driver vendor can't run this call: torch has no loop for the cell slstm.",
    ),
    "vendor and all states": (
        lambda: LSTM(I, H, driver="vendor")(x(), all_states=True),
        RuntimeError,
        "driver vendor can't run this call: torch's own loop gives the sequence of the output alone",
    ),
    "LSTM by a driver": (
        lambda: LSTM(I, H, driver="eager")(x(), (x(1, 2, H), x(1, B, H))),
        RuntimeError,
        "hx h must have shape (1, 3, 6). Got (1, 2, 6).",
    ),
    "LSTMCell rank": (
        lambda: LSTMCell(I, H, driver="eager")(x()),
        ValueError,
        "x must have the shape (I,), or (B, I). Got (5, 3, 4).",
    ),
    "LSTMCell state rank": (
        lambda: LSTMCell(I, H, driver="eager")(x(B, I), (x(1, B, H), x(B, H))),
        ValueError,
        "a cell's state must have the shape (H,), or (B, H). Got (1, 3, 6).",
    ),
    "LSTMCell dtype": (
        lambda: LSTMCell(I, H, driver="eager")(x(B, I, dtype=torch.float64)),
        RuntimeError,
        "x must have the weights' dtype torch.float32. Got torch.float64.",
    ),
    "no steps": (
        lambda: LSTM(I, H, driver="eager")(x(0, B, I)),
        RuntimeError,
        "input must have at least one step. Got T = 0.",
    ),
    "LSTMCell state": (
        lambda: LSTMCell(I, H, driver="eager")(x(B, I), (x(2, H), x(B, H))),
        RuntimeError,
        "hx h must have shape (3, 6). Got (2, 6).",
    ),
}


@pytest.mark.parametrize(("make", "error", "text"), CONSTRUCTORS.values(), ids=CONSTRUCTORS.keys())
def test_constructors(make, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make()


@pytest.mark.parametrize(("call", "error", "text"), CALLS.values(), ids=CALLS.keys())
def test_calls(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_the_plan_checks_as_a_call_does():
    with pytest.raises(RuntimeError, match=re.escape("x must have input_size 4 as its last dimension. Got 7.")):
        layer().plan(x(T, B, 7))


def test_dropout_of_one_layer_warns():
    with pytest.warns(UserWarning, match=re.escape("dropout acts between layers. Got dropout 0.5 for one layer.")):
        Recurrent("lstm", I, H, dropout=0.5)


def test_a_cells_parameter_must_not_hide_a_weight():
    @gatefuse.cell(gates="a")
    def shadow(x, R, h, *, weight_hh):
        return torch.tanh(x.a + weight_hh * R.a(h))

    text = "a cell's parameter must not be named as the layer's own. Got weight_hh."
    with pytest.raises(ValueError, match=re.escape(text)):
        Recurrent(shadow, I, H)


BOTH = {
    "rank": lambda new: new()(x(4)),
    "size": lambda new: new()(x(T, B, 7)),
    "dtype": lambda new: new()(x(dtype=torch.float64)),
    "state shape": lambda new: new()(x(), (x(1, 2, H), x(1, 2, H))),
    "state rank": lambda new: new()(x(), (x(B, H), x(B, H))),
    "hidden size": lambda new: new(hidden_size=0),
    "layers": lambda new: new(num_layers=0),
    "dropout": lambda new: new(dropout=2.0),
    "bias": lambda new: new(bias="no"),
}


@pytest.mark.parametrize("mistake", BOTH.values(), ids=BOTH.keys())
def test_the_exception_is_of_torchs_type(mistake):
    raised = []
    for make in (torch.nn.LSTM, lambda *args, **options: Recurrent("lstm", *args, **options)):
        with pytest.raises((ValueError, RuntimeError, TypeError)) as error:
            mistake(lambda make=make, **options: make(**{"input_size": I, "hidden_size": H, **options}))
        raised.append(error.type)
    assert raised[0] is raised[1]

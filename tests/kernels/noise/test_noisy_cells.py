"""Zoneout and recurrent dropout as cells: their names, parameters, keys, pickles and refusals."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from torch import tanh

import gatefuse
from gatefuse import cell, find_cell, recurrent_dropout, zoneout
from gatefuse.kernels.noise.noisy_cell import Noise
from tests.support.cells_with_inputs import aging


@cell(gates="a", constants={"rate": 0.5}, init={"h": 0.25}, parameter_init={"gain": 1.0})
def leaking(x, R, h, *, gain, rate):
    return h + rate * (tanh(gain * (x.a + R.a(h))) - h)


@cell(gates="a")
def reading_a_size(x, R, h):
    return tanh(x.a + R.a(h)) * h.shape[-1] ** -0.5


@cell(gates="a", inputs="zoneout_h")
def taken(x, R, h):
    return tanh(x.a + R.a(h)) * x.zoneout_h


def test_it_declares_what_the_cell_declares():
    found = zoneout(leaking, h=0.1)
    assert found.declaration == leaking.declaration
    assert found.name == "zoneout_leaking"
    assert found.inputs == ()
    assert found.trained.inputs == ("zoneout_h",)
    assert "zoneout_h 1 with probability 0.1" in repr(found)
    assert found.refusal == found.trained.refusal == ""


def test_noise_is_that_of_all_that_was_done():
    found = zoneout(recurrent_dropout(aging, 0.2), h=0.1, c=0.5)
    assert found.name == "zoneout_recurrent_dropout_aging"
    assert found.inputs == ("age", "left")
    assert found.trained.inputs == ("age", "left", "recurrent_dropout", "zoneout_h", "zoneout_c")
    assert found.noise == (
        Noise("recurrent_dropout", 0.8, 1.25, False),
        Noise("zoneout_h", 0.1, 1.0, True),
        Noise("zoneout_c", 0.5, 1.0, True),
    )
    assert recurrent_dropout("gru", 0.5, each_step=True).noise[0].each_step


def test_keys_tell_probabilities_apart():
    one, same, other = (zoneout("lstm", c=p) for p in (0.25, 0.25, 0.5))
    assert one.key == same.key != other.key
    assert len({one.key, one.trained.key, find_cell("lstm").key}) == 3
    assert one.key.startswith("gatefuse.kernels.cells.lstm.zoneout_lstm:")


def test_no_noise_is_the_cell_and_draws_nothing():
    for found in (zoneout("lstm", h=0.0), recurrent_dropout("lstm", 0)):
        assert found.noise == ()
        assert found.trained is found
        assert found.program.text() == find_cell("lstm").program.text()


def test_recurrent_dropout_in_eval_mode_has_the_cells_equations():
    assert recurrent_dropout("gru", 0.5).program.text() == find_cell("gru").program.text()


def test_constants_change_below():
    found = zoneout(recurrent_dropout(leaking, 0.2), h=0.1).with_(rate=0.25)
    assert found.constants == found.trained.constants == {"rate": 0.25}
    assert found.noise == zoneout(recurrent_dropout(leaking, 0.2), h=0.1).noise


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_hold_the_cell_and_numbers(protocol):
    for given in (zoneout(recurrent_dropout(leaking, 0.2), h=0.1), recurrent_dropout("gru", 0.5, each_step=True)):
        found = pickle.loads(pickle.dumps(given, protocol))
        assert (found.name, found.noise, found.key) == (given.name, given.noise, given.key)
        assert pickle.loads(pickle.dumps(given.trained, protocol)).key == given.trained.key


def test_what_cannot_be_translated_says_where_it_is_written():
    found = zoneout(reading_a_size, h=0.1)
    for each in (found, found.trained):
        assert re.search(r"must not ask for a size.*test_noisy_cells\.py, line \d+\)", each.refusal)


def test_masks_have_the_probability_and_the_value():
    like = torch.empty(0, dtype=torch.float16)
    torch.manual_seed(0)
    mask = Noise("m", 0.75, 4 / 3, True).draw(2, 50, 10, 10, like)
    assert (mask.shape, mask.dtype) == ((2, 50, 10, 10), torch.float16)
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(4 / 3).half().item()}
    assert abs((mask > 0).double().mean() - 0.75) < 0.02
    assert Noise("m", 0.5, 1.0, False).draw(2, 50, 10, 10, like).shape == (2, 1, 10, 10)


WRONG = {
    "none": (lambda: zoneout("lstm"), ValueError, "a probability of a state of lstm (h, c). Got none."),
    "no state": (lambda: zoneout("lstm", g=0.1), ValueError, "zoneout must be given states of lstm (h, c). Got g."),
    "one": (lambda: zoneout("lstm", h=1.0), ValueError, "zoneout of h must be at least 0 and below 1. Got 1.0."),
    "negative": (lambda: zoneout("lstm", h=-0.1), ValueError, "must be at least 0 and below 1. Got -0.1."),
    "nan": (lambda: zoneout("lstm", h=float("nan")), ValueError, "must be at least 0 and below 1. Got nan."),
    "text": (lambda: zoneout("lstm", h="0.1"), TypeError, "zoneout of h must be a number. Got '0.1'."),
    "twice": (
        lambda: zoneout(zoneout("lstm", h=0.1), h=0.1),
        ValueError,
        "act on each state once. Got h of zoneout_lstm",
    ),
    "name": (lambda: zoneout("lstn", h=0.1), ValueError, "cell must be one of elman"),
    "an input's": (lambda: zoneout(taken, h=0.1), ValueError, "the inputs of zoneout_taken must differ. Got zoneout_h"),
    "p": (lambda: recurrent_dropout("lstm", 1), ValueError, "p must be at least 0 and below 1. Got 1."),
    "flag": (lambda: recurrent_dropout("lstm", True), TypeError, "p must be a number. Got True."),
    "each_step": (lambda: recurrent_dropout("lstm", 0.1, each_step=1), TypeError, "each_step must be a bool. Got 1."),
    "no product": (lambda: recurrent_dropout("min_gru", 0.1), ValueError, "with recurrent products. Got min_gru"),
    "dropped twice": (
        lambda: recurrent_dropout(recurrent_dropout("gru", 0.1), 0.1),
        ValueError,
        "recurrent_dropout must act on a cell once. Got recurrent_dropout_gru.",
    ),
    "weights": (
        lambda: gatefuse.Recurrent("lstm", 2, 3, weight_dropout=1.0),
        ValueError,
        "weight_dropout must be at least 0 and below 1. Got 1.0.",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refusals(wrong):
    make, kind, text = WRONG[wrong]
    with pytest.raises(kind, match=re.escape(text)):
        make()


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (lambda h: [h], "must return its new state h, a tensor. Got a list"),
        (lambda h: (h, h), "must return its new state h, a tensor. Got 2 values"),
        (lambda h: 0.5, "the new state h of zoneout_odd must be a tensor. Got float"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_what_equations_must_not_return(returned, text, training):
    @cell(gates="a")
    def odd(x, R, h):
        return returned(tanh(x.a + R.a(h)))

    layer = gatefuse.Recurrent(zoneout(odd, h=0.5), 2, 3).train(training)
    with pytest.raises((TypeError, ValueError), match=re.escape(text)) as found:
        layer(torch.zeros(2, 1, 2))
    assert "test_noisy_cells.py, line " in str(found.value)

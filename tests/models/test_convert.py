"""Weights between the scratch networks and a layer: nothing lost, the function kept, mistakes named."""

from __future__ import annotations

import re

import pytest
import torch
from torch.testing import assert_close

from gatefuse import find_cell
from gatefuse.kernels.drivers import eager
from gatefuse.kernels.task import Task, Weights
from gatefuse.models.convert import load_layer_state, to_layer_state
from gatefuse.models.scratch import D2LGRU, D2LLSTM, FusedLSTM, NaiveLSTM

T, B, I, H = 7, 3, 4, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
NETWORKS = {
    "naive": (NaiveLSTM, {}, "lstm"),
    "fused": (FusedLSTM, {}, "lstm"),
    "peephole": (FusedLSTM, {"peephole": True}, "article_peephole_lstm"),
    "d2l-lstm": (D2LLSTM, {}, "lstm"),
    "d2l-gru": (D2LGRU, {}, "gru_reset_first"),
}
networks = pytest.mark.parametrize(("kind", "options", "cell"), NETWORKS.values(), ids=NETWORKS)


def draw(*shape):
    return torch.rand(*shape, dtype=torch.float64) * 2 - 1


def by_time(network, x, states):
    """Outputs (T, B, H) and last states of any network, for x (T, B, I)."""
    if isinstance(network, NaiveLSTM | FusedLSTM):
        out, last = network(x.transpose(0, 1), states)
        return out.transpose(0, 1), last
    return network(x, states)


@networks
def test_round_trip(kind, options, cell):
    network, other = kind(I, H, dtype=torch.float64, **options), kind(I, H, dtype=torch.float64, **options)
    state = to_layer_state(network)
    G = len(find_cell(cell).gates)
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "weight_ih_l0": (G * H, I),
        "weight_hh_l0": (G * H, H),
        "bias_ih_l0": (G * H,),
        "bias_hh_l0": (G * H,),
    }
    assert not state["bias_hh_l0"].any()
    load_layer_state(other, state)
    for (name, p), q in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
    # Copies: the layer may go on training without the network.
    state["weight_ih_l0"].add_(1)
    assert torch.equal(to_layer_state(network)["weight_ih_l0"], to_layer_state(other)["weight_ih_l0"])


@networks
def test_load_keeps_the_function(kind, options, cell):
    """Two biases, both not zero, give the cell's function; also where the cell leaves one of them out."""
    torch.manual_seed(6)
    cell = find_cell(cell)
    rows = len(cell.gates) * H
    weights = Weights(draw(rows, I), draw(rows, H), draw(rows), draw(rows))
    network = kind(I, H, dtype=torch.float64, **options)
    load_layer_state(network, dict(zip(NAMES, weights[:4], strict=True)))
    x, states = draw(T, B, I), tuple(draw(B, H) for _ in cell.states)
    out, last = by_time(network, x, states)
    (sequence,), finals = eager.run(Task(cell, x, states, weights))
    assert_close(out, sequence, **CLOSE)
    assert_close(last, finals, **CLOSE)


def test_load_without_biases():
    theirs = torch.nn.LSTM(I, H, bias=False, dtype=torch.float64)
    network = NaiveLSTM(I, H, dtype=torch.float64)
    with torch.device("meta"):  # of which no tensor comes
        load_layer_state(network, theirs.state_dict())
    x = torch.rand(T, B, I, dtype=torch.float64)
    assert_close(by_time(network, x, None)[0], theirs(x)[0], **CLOSE)


def test_load_names_what_is_wrong():
    network = NaiveLSTM(3, 20)
    state = to_layer_state(network)
    before = to_layer_state(network)

    def refuses(state, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            load_layer_state(network, state)

    refuses(
        {**state, "weight_ih_l0": state["weight_ih_l0"].T},
        "weight_ih_l0 must have shape (80, 3). Got (3, 80).",
    )
    refuses({**state, "bias_hh_l0": torch.zeros(60)}, "bias_hh_l0 must have shape (80,). Got (60,).")
    rule = "state must hold weight_ih_l0 and weight_hh_l0, with both bias_ih_l0 and bias_hh_l0 or with neither. "
    refuses({}, rule + "Got none.")
    refuses({name: state[name] for name in list(state)[:3]}, rule + "Got bias_ih_l0, weight_hh_l0, weight_ih_l0.")
    refuses(
        {**state, "weight_ih_l1": state["weight_ih_l0"]},
        rule + "Got bias_hh_l0, bias_ih_l0, weight_hh_l0, weight_ih_l0, weight_ih_l1.",
    )
    for name, value in to_layer_state(network).items():
        assert torch.equal(value, before[name]), name


def test_output_layer_is_untouched():
    network = D2LGRU(I, H, 6)
    W_hq = network.W_hq.detach().clone()
    load_layer_state(network, to_layer_state(D2LGRU(I, H)))
    assert torch.equal(network.W_hq, W_hq)


def test_dtype_and_device_are_the_networks():
    network = NaiveLSTM(I, H)
    load_layer_state(network, torch.nn.LSTM(I, H, dtype=torch.float64).state_dict())
    assert {p.dtype for p in network.parameters()} == {torch.float32}


class LSTMScratch(torch.nn.Module):
    """One of a reader's own, by the book's names."""


def test_networks_of_one_s_own_are_refused():
    networks = "NaiveLSTM, FusedLSTM, D2LLSTM, D2LGRU"
    rule = rf"^network must be one of gatefuse\.models\.scratch: {networks}\. Got .*LSTMScratch\.$"
    with pytest.raises(TypeError, match=rule):
        to_layer_state(LSTMScratch())
    with pytest.raises(TypeError, match=rule):
        load_layer_state(LSTMScratch(), torch.nn.LSTM(I, H).state_dict())

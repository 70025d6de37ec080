"""The scratch networks against the cells, against torch.nn and against one step written out by hand."""

from __future__ import annotations

import copy
import math
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


def make(kind, *sizes, **options):
    """A network in float64 whose weights are all drawn, zero biases and tiny weights included."""
    network = kind(*(sizes or (I, H)), dtype=torch.float64, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.rand(p.shape, generator=generator, dtype=p.dtype) - 0.5)
    return network


NETWORKS = {
    "naive": (NaiveLSTM, {}, "lstm"),
    "fused": (FusedLSTM, {}, "lstm"),
    "peephole": (FusedLSTM, {"peephole": True}, "article_peephole_lstm"),
    "d2l-lstm": (D2LLSTM, {}, "lstm"),
    "d2l-gru": (D2LGRU, {}, "gru_reset_first"),
}
networks = pytest.mark.parametrize(("kind", "options", "cell"), NETWORKS.values(), ids=NETWORKS)


def draw(*shape):
    return (torch.rand(*shape, dtype=torch.float64) * 2 - 1).requires_grad_()


def by_time(network, x, states):
    """Outputs (T, B, H) and last states of any network, for x (T, B, I)."""
    if isinstance(network, NaiveLSTM | FusedLSTM):
        out, last = network(x.transpose(0, 1), states)
        return out.transpose(0, 1), last
    return network(x, states)


def gradients(network):
    """The gradients of a network by a layer's names."""
    twin = copy.deepcopy(network)
    for p, q in zip(twin.parameters(), network.parameters(), strict=True):
        p.data = q.grad
    return to_layer_state(twin)


@networks
def test_equals_cell(kind, options, cell):
    torch.manual_seed(1)
    network, cell = make(kind, **options), find_cell(cell)
    x, states = draw(T, B, I), tuple(draw(B, H) for _ in cell.states)
    layer = {name: value.requires_grad_() for name, value in to_layer_state(network).items()}
    x_cell, states_cell = (
        x.detach().clone().requires_grad_(),
        tuple(s.detach().clone().requires_grad_() for s in states),
    )

    out, last = by_time(network, x, states)
    (sequence,), finals = eager.run(Task(cell, x_cell, states_cell, Weights(*layer.values())))
    assert_close(out, sequence, **CLOSE)
    assert_close(last, finals, **CLOSE)

    probes = [torch.rand_like(value) for value in (out, *last)]
    torch.autograd.backward((out, *last), probes)
    torch.autograd.backward((sequence, *finals), probes)
    assert_close(x.grad, x_cell.grad, **CLOSE)
    # A state that the equations never read gets no gradient from autograd, but zero from a layer: h of the article's
    # peephole.
    for ours, theirs in zip(states, states_cell, strict=True):
        none = torch.zeros_like(ours)
        assert_close(none if ours.grad is None else ours.grad, none if theirs.grad is None else theirs.grad, **CLOSE)
        assert (ours.grad is None) + (theirs.grad is None) < 2
    expected = gradients(network)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"):
        assert_close(layer[name].grad, expected[name], **CLOSE)


@pytest.mark.parametrize("kind", [NaiveLSTM, FusedLSTM, D2LLSTM])
def test_equals_torch(kind):
    torch.manual_seed(2)
    theirs = torch.nn.LSTM(I, H, dtype=torch.float64)
    network = kind(I, H, dtype=torch.float64)
    load_layer_state(network, theirs.state_dict())
    x = draw(T, B, I)
    x_theirs = x.detach().clone().requires_grad_()

    out, (h, c) = by_time(network, x, None)
    expected, (h_n, c_n) = theirs(x_theirs)
    assert_close(out, expected, **CLOSE)
    assert_close((h, c), (h_n[0], c_n[0]), **CLOSE)

    probes = [torch.rand_like(value) for value in (out, h, c)]
    torch.autograd.backward((out, h, c), probes)
    torch.autograd.backward((expected, h_n[0], c_n[0]), probes)
    assert_close(x.grad, x_theirs.grad, **CLOSE)
    for name, gradient in gradients(network).items():
        if name != "bias_hh_l0":
            assert_close(gradient, getattr(theirs, name).grad, **CLOSE)


# One step written out, unit by unit in plain floats, so that no matrix convention is taken over from the network.


def logistic(v):
    return 1 / (1 + math.exp(-v))


def affine(x, W, h, U, b, column):
    return sum(x[k] * W[k][column] for k in range(len(x))) + sum(h[k] * U[k][column] for k in range(len(h))) + b[column]


def one_step(network, states):
    x = torch.rand(I, dtype=torch.float64)
    out, last = by_time(network, x.view(1, 1, I), tuple(s.view(1, H) for s in states))
    assert_close(out[0, 0], last[0][0], rtol=0, atol=0)
    return x.tolist(), [s[0].tolist() for s in last]


@pytest.mark.parametrize("kind", [NaiveLSTM, D2LLSTM])
def test_lstm_step_by_hand(kind):
    torch.manual_seed(3)
    network, (h, c) = make(kind), torch.rand(2, H, dtype=torch.float64)
    x, (h_new, c_new) = one_step(network, (h, c))
    h, c = h.tolist(), c.tolist()
    if kind is NaiveLSTM:
        names = [("U_" + k, "V_" + k, "b_" + k) for k in "ifco"]
    else:
        names = [("W_x" + k, "W_h" + k, "b_" + k) for k in "ifco"]
    gates = [[getattr(network, name).tolist() for name in three] for three in names]
    for unit in range(H):
        i, f, g, o = (affine(x, W, h, U, b, unit) for W, U, b in gates)
        memory = logistic(f) * c[unit] + logistic(i) * math.tanh(g)
        assert c_new[unit] == pytest.approx(memory, abs=1e-12)
        assert h_new[unit] == pytest.approx(logistic(o) * math.tanh(memory), abs=1e-12)


@pytest.mark.parametrize("peephole", [False, True])
def test_fused_step_by_hand(peephole):
    torch.manual_seed(4)
    network, (h, c) = make(FusedLSTM, peephole=peephole), torch.rand(2, H, dtype=torch.float64)
    x, (h_new, c_new) = one_step(network, (h, c))
    h, c = h.tolist(), c.tolist()
    W, U, b = (p.tolist() for p in (network.W, network.U, network.bias))
    for unit in range(H):
        i, f, g, o = (affine(x, W, c if peephole else h, U, b, k * H + unit) for k in range(4))
        if peephole:
            candidate = logistic(affine(x, W, [], [], b, 2 * H + unit))
            memory = logistic(f) * c[unit] + logistic(i) * candidate
            output = math.tanh(logistic(o) * memory)
        else:
            memory = logistic(f) * c[unit] + logistic(i) * math.tanh(g)
            output = logistic(o) * math.tanh(memory)
        assert c_new[unit] == pytest.approx(memory, abs=1e-12)
        assert h_new[unit] == pytest.approx(output, abs=1e-12)


def test_gru_step_by_hand():
    torch.manual_seed(5)
    network, h = make(D2LGRU), torch.rand(H, dtype=torch.float64)
    x, (h_new,) = one_step(network, (h,))
    h = h.tolist()
    z, r, n = ([getattr(network, name + k).tolist() for name in ("W_x", "W_h", "b_")] for k in "zrh")
    reset = [logistic(affine(x, r[0], h, r[1], r[2], unit)) * h[unit] for unit in range(H)]
    for unit in range(H):
        keep = logistic(affine(x, z[0], h, z[1], z[2], unit))
        candidate = math.tanh(affine(x, n[0], reset, n[1], n[2], unit))
        assert h_new[unit] == pytest.approx(keep * h[unit] + (1 - keep) * candidate, abs=1e-12)


def test_book_gru_is_not_torch_gru():
    network, theirs = make(D2LGRU), torch.nn.GRU(I, H, dtype=torch.float64)
    theirs.load_state_dict(to_layer_state(network))
    x = torch.rand(T, B, I, dtype=torch.float64)
    assert (network(x)[0] - theirs(x)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [D2LLSTM, D2LGRU])
def test_output_layer(kind):
    network = make(kind, I, H, 6)
    bare = kind(I, H, dtype=torch.float64)
    load_layer_state(bare, to_layer_state(network))
    x = torch.rand(T, B, I, dtype=torch.float64)
    outputs, last = network(x)
    hidden, last_bare = bare(x)
    assert outputs.shape == (T * B, 6)
    assert hidden.shape == (T, B, H)
    assert_close(outputs.view(T, B, 6), hidden @ network.W_hq + network.b_q, **CLOSE)
    assert_close(last, last_bare, **CLOSE)


def test_zero_states_are_the_default():
    x = torch.rand(B, T, I, dtype=torch.float64)
    for network in (make(NaiveLSTM), make(FusedLSTM), make(FusedLSTM, peephole=True)):
        zeros = torch.zeros(B, H, dtype=torch.float64)
        assert_close(network(x), network(x, (zeros, zeros)), rtol=0, atol=0)


def test_first_weights():
    H = 400
    for network in (NaiveLSTM(50, H), FusedLSTM(50, H)):
        for p in network.parameters():
            assert p.abs().max() <= 1 / math.sqrt(H)
            assert p.abs().max() > 0.9 / math.sqrt(H)
    for network in (D2LLSTM(50, H, 50), D2LGRU(50, H, 50)):
        for name, p in network.named_parameters():
            if name.startswith("b_"):
                assert not p.any()
            else:
                assert p.std().item() == pytest.approx(0.01, rel=0.05)


@networks
def test_factory_arguments(kind, options, cell):
    network = kind(I, H, **options, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in network.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("shape", [(2, 7), (2, 7, 5), (2, 0, 4)])
def test_input_of_another_shape(shape):
    for network, layout in ((NaiveLSTM(4, 5), "B, T, I"), (FusedLSTM(4, 5), "B, T, I")):
        message = f"x must have shape ({layout}) with I = 4 and T > 0. Got {shape}."
        with pytest.raises(ValueError, match=re.escape(message)):
            network(torch.zeros(shape))


def test_book_input_of_another_shape():
    for network in (D2LLSTM(4, 5), D2LGRU(4, 5)):
        message = "x must have shape (T, B, I) with I = 4 and T > 0. Got (0, 2, 4)."
        with pytest.raises(ValueError, match=re.escape(message)):
            network(torch.zeros(0, 2, 4))


def test_peephole_ignores_the_candidates_recurrent_part():
    network = make(FusedLSTM, peephole=True)
    x = torch.rand(B, T, I, dtype=torch.float64)
    out, _ = network(x)
    out.sum().backward()
    assert not network.U.grad[:, 2 * H : 3 * H].any()
    assert network.U.grad[:, : 2 * H].any()

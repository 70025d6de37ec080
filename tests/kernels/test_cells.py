"""The shipped cells under the oracle: against torch.nn, and against the papers' equations written out again."""

from __future__ import annotations

import pytest
import torch
from torch import exp, sigmoid, tanh
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from gatefuse import find_cell
from gatefuse.kernels.drivers import eager
from gatefuse.kernels.task import Task, Weights

T, B, I, H = 9, 3, 4, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
TORCH = {
    "lstm": lambda **options: torch.nn.LSTM(I, H, dtype=torch.float64, **options),
    "gru": lambda **options: torch.nn.GRU(I, H, dtype=torch.float64, **options),
    "elman": lambda **options: torch.nn.RNN(I, H, dtype=torch.float64, **options),
    "elman_relu": lambda **options: torch.nn.RNN(I, H, nonlinearity="relu", dtype=torch.float64, **options),
}


def draw(*shape):
    return (torch.rand(*shape, dtype=torch.float64) * 2 - 1).requires_grad_()


def weights_of(cell, scale=1.0):
    rows, fed = len(cell.input_gates) * H, len(cell.recurrent_gates) * H
    shapes = (rows, I), (fed, H), (rows,), (fed,)
    tensors = [(draw(*shape).detach() * scale).requires_grad_() for shape in shapes]
    return Weights(*tensors, parameters=tuple(draw(H) for _ in cell.parameters))


def assert_same_gradients(ours, theirs, leaves):
    """Gradients of the leaves through both lists of values, weighted alike, are the same."""
    probes = [torch.rand_like(value) for value in ours]
    got = torch.autograd.grad(ours, leaves, probes, allow_unused=True)
    expected = torch.autograd.grad(theirs, leaves, probes, allow_unused=True)
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", TORCH)
def test_equals_torch(name, bias):
    torch.manual_seed(0)
    cell, theirs = find_cell(name), TORCH[name](bias=bias)
    weights = Weights(*theirs.parameters())
    x, states = draw(T, B, I), tuple(draw(B, H) for _ in cell.states)

    (sequence,), finals = eager.run(Task(cell, x, states, weights))
    packed = tuple(s.unsqueeze(0) for s in states)
    expected, last = theirs(x, packed if len(packed) > 1 else packed[0])
    last = tuple(s.squeeze(0) for s in (last if isinstance(last, tuple) else (last,)))
    assert_close(sequence, expected, **CLOSE)
    assert_close(finals, last, **CLOSE)
    assert_same_gradients((sequence, *finals), (expected, *last), [x, *states, *theirs.parameters()])


def gates_of(cell, weights, x_t, v):
    """W x + b_ih + R v + b_hh, cut into gates."""
    total = x_t @ weights.input.T + weights.input_bias + v @ weights.recurrent.T + weights.recurrent_bias
    return total.split(H, dim=1)


def test_peephole_lstm_equals_its_paper():
    """Gers and Schmidhuber: i and f see the old memory through diagonal weights, o the new."""
    torch.manual_seed(1)
    cell = find_cell("peephole_lstm")
    weights = weights_of(cell)
    p_i, p_f, p_o = weights.parameters
    x, h0, c0 = draw(T, B, I), draw(B, H), draw(B, H)

    h, c, outputs = h0, c0, []
    for x_t in x:
        i, f, g, o = gates_of(cell, weights, x_t, h)
        i = sigmoid(i + p_i * c)
        f = sigmoid(f + p_f * c)
        c = f * c + i * tanh(g)
        h = sigmoid(o + p_o * c) * tanh(c)
        outputs.append(h)
    expected = torch.stack(outputs)

    (sequence,), finals = eager.run(Task(cell, x, (h0, c0), weights))
    assert_close(sequence, expected, **CLOSE)
    assert_close(finals, (h, c), **CLOSE)
    assert_same_gradients((sequence, *finals), (expected, h, c), [x, h0, c0, *weights[:4], *weights.parameters])


def slstm_by_the_paper(cell, weights, x, states, stabilized):
    """xLSTM's equations 8 to 17; without the stabilizer c, n are the plain ones, else they are scaled by exp(-m)."""
    h, c, n, m = states
    outputs = []
    for x_t in x:
        i, f, z, o = gates_of(cell, weights, x_t, h)
        if stabilized:
            log_f = logsigmoid(f)
            m_new = torch.maximum(log_f + m, i)
            i, f, m = exp(i - m_new), exp(log_f + m - m_new), m_new
        else:
            i, f = exp(i), sigmoid(f)
        c = f * c + i * tanh(z)
        n = f * n + i
        h = sigmoid(o) * c / n
        outputs.append(h)
    return torch.stack(outputs), (h, c, n, m)


def test_slstm_equals_its_paper_from_states_within_a_sequence():
    torch.manual_seed(2)
    cell = find_cell("slstm")
    weights = weights_of(cell)
    states = draw(B, H), draw(B, H), (draw(B, H).detach() + 1.5).requires_grad_(), draw(B, H)
    x = draw(T, B, I)
    expected, last = slstm_by_the_paper(cell, weights, x, states, stabilized=True)
    (sequence,), finals = eager.run(Task(cell, x, states, weights))
    assert_close(sequence, expected, **CLOSE)
    assert_close(finals, last, **CLOSE)
    assert_same_gradients((sequence, *finals), (expected, *last), [x, *states, *weights[:4]])


@pytest.mark.parametrize("stabilized", [True, False], ids=["stabilized", "plain"])
def test_slstm_equals_its_paper_from_the_start(stabilized):
    """The stabilizer starts at the first input gate here, at 0 or above in the paper's: only c, n and m may tell."""
    torch.manual_seed(3)
    cell = find_cell("slstm")
    weights = weights_of(cell, scale=2.0)
    states = tuple(torch.zeros(B, H, dtype=torch.float64) for _ in cell.states)
    x = draw(T, B, I)
    expected, (h, c, n, m) = slstm_by_the_paper(cell, weights, x, states, stabilized)
    scale = exp(m) if stabilized else 1.0

    (sequence,), finals = eager.run(Task(cell, x, states, weights))
    ours = finals[0], finals[1] * exp(finals[3]), finals[2] * exp(finals[3])
    theirs = h, c * scale, n * scale
    assert_close(sequence, expected, **CLOSE)
    assert_close(ours, theirs, **CLOSE)
    assert_same_gradients((sequence, *ours), (expected, *theirs), [x, *weights[:4]])


@pytest.mark.parametrize("size", [-800.0, 800.0])
def test_slstm_stays_finite_where_plain_exponentials_do_not(size):
    cell = find_cell("slstm")
    weights = weights_of(cell)
    assert weights.input_bias is not None
    with torch.no_grad():
        weights.input_bias[: 2 * H] += size
    states = tuple(torch.zeros(B, H, dtype=torch.float64) for _ in cell.states)
    x = draw(T, B, I)
    plain, _ = slstm_by_the_paper(cell, weights, x, states, stabilized=False)
    assert not plain.isfinite().all()
    (sequence,), finals = eager.run(Task(cell, x, states, weights))
    assert all(value.isfinite().all() for value in (sequence, *finals))
    gradients = torch.autograd.grad(sequence.sum(), [x, *weights[:4]])
    assert all(g.isfinite().all() for g in gradients)


def test_all_states_are_given_when_asked_for():
    cell = find_cell("lstm")
    x, states, weights = draw(T, B, I), (draw(B, H), draw(B, H)), weights_of(cell)
    sequences, finals = eager.run(Task(cell, x, states, weights, all_states=True))
    assert [s.shape for s in sequences] == [(T, B, H)] * 2
    assert_close(tuple(s[-1] for s in sequences), finals, rtol=0, atol=0)

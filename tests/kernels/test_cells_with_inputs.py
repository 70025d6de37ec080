"""The shipped cells that are given more than x, against the papers' equations written out again."""

from __future__ import annotations

import pytest
import torch
from torch import exp, sigmoid, tanh
from torch.testing import assert_close

from gatefuse import find_cell
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.task import Task
from tests.kernels.test_cells import CLOSE, B, H, T, assert_same_gradients, draw, weights_of

I = 4


def augru(weights, x, h, a):
    """Zhou et al.: a GRU whose update gate a score scales."""
    W_u, W_r, W_n = weights.input.chunk(3)
    U_u, U_r, U_n = weights.recurrent.chunk(3)
    b_u, b_r, b_n = weights.input_bias.chunk(3)
    d_u, d_r, d_n = weights.recurrent_bias.chunk(3)
    outputs = []
    for x_t, a_t in zip(x, a, strict=True):
        u = sigmoid(x_t @ W_u.T + h @ U_u.T + b_u + d_u)
        r = sigmoid(x_t @ W_r.T + h @ U_r.T + b_r + d_r)
        n = tanh(x_t @ W_n.T + b_n + r * (h @ U_n.T + d_n))
        scored = a_t * u
        h = (1 - scored) * h + scored * n
        outputs.append(h)
    return torch.stack(outputs)


def gru_d(weights, x, h, decay):
    """Che et al.: gamma of the state, then a GRU whose reset gate acts before the product."""
    W_z, W_r, W_n = weights.input.chunk(3)
    U_z, U_r, U_n = weights.recurrent.chunk(3)
    b_z, b_r, b_n = (weights.input_bias + weights.recurrent_bias).chunk(3)
    outputs = []
    for x_t, decay_t in zip(x, decay, strict=True):
        faded = exp(-torch.maximum(torch.zeros_like(decay_t), decay_t)) * h
        z = sigmoid(x_t @ W_z.T + faded @ U_z.T + b_z)
        r = sigmoid(x_t @ W_r.T + faded @ U_r.T + b_r)
        n = tanh(x_t @ W_n.T + (r * faded) @ U_n.T + b_n)
        h = (1 - z) * faded + z * n
        outputs.append(h)
    return torch.stack(outputs)


def cfc(weights, x, h, elapsed):
    """Hasani et al.: x(t) = s(-f t) g + [1 - s(-f t)] h, of three networks."""
    outputs = []
    for x_t, t in zip(x, elapsed, strict=True):
        total = x_t @ weights.input.T + weights.input_bias + h @ weights.recurrent.T + weights.recurrent_bias
        f, g, k = total.split(H, 1)
        gate = 1 / (1 + exp(f * t))
        h = gate * tanh(g) + (1 - gate) * tanh(k)
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("units", [1, H])
@pytest.mark.parametrize("name", ["eager", "script", "aten", "llvm"])
@pytest.mark.parametrize("equations", [augru, gru_d, cfc])
def test_it_equals_its_paper(equations, name, units):
    torch.manual_seed(1)
    cell = find_cell(equations.__name__)
    weights, x, h0, beside = weights_of(cell), draw(T, B, I), draw(B, H), draw(T, B, units)
    expected = equations(weights, x, h0, beside)
    (sequence,), finals = driver(name).run(Task(cell, x, (h0,), weights, inputs=(beside,)))
    assert_close(sequence, expected, **CLOSE)
    assert_close(finals[0], expected[-1], **CLOSE)
    assert_same_gradients((sequence,), (expected,), [x, h0, beside, *weights[:4]])


def run(name, value, h0, weights, x):
    beside = torch.full((x.shape[0], B, 1), value, dtype=torch.float64)
    (output,), _ = driver("eager").run(Task(find_cell(name), x, (h0,), weights, inputs=(beside,)))
    return output


def test_a_score_of_zero_leaves_the_state():
    weights, x, h0 = weights_of(find_cell("augru")), draw(T, B, I), draw(B, H)
    assert_close(run("augru", 0.0, h0, weights, x), h0.expand(T, B, H), rtol=0, atol=0)


def test_a_state_fades_with_decay_and_never_grows():
    weights, x, h0 = weights_of(find_cell("gru_d")), draw(1, B, I), draw(B, H)
    assert_close(run("gru_d", 800.0, h0, weights, x), run("gru_d", 0.0, torch.zeros_like(h0), weights, x), **CLOSE)
    assert_close(run("gru_d", -5.0, h0, weights, x), run("gru_d", 0.0, h0, weights, x), **CLOSE)
    assert not torch.allclose(run("gru_d", 0.5, h0, weights, x), run("gru_d", 0.0, h0, weights, x))


def test_no_time_elapsed_is_halfway_between_the_candidates():
    weights, x, h0 = weights_of(find_cell("cfc")), draw(1, B, I), draw(B, H)
    total = x[0] @ weights.input.T + weights.input_bias + h0 @ weights.recurrent.T + weights.recurrent_bias
    _, g, k = total.split(H, 1)
    assert_close(run("cfc", 0.0, h0, weights, x)[0], (tanh(g) + tanh(k)) / 2, **CLOSE)

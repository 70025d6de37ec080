"""GRU-D against the paper's equations, step by step, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from torch import exp, sigmoid, tanh
from torch.testing import assert_close

from gatefuse import GRUD

T, B, I, H = 7, 3, 4, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def draw(steps=T):
    """x, mask, elapsed and the mean, of samples in which some features are never seen."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps, B, I, generator=generator, dtype=torch.float64)
    mask = torch.rand(steps, B, I, generator=generator) < 0.4
    mask[:, 0, 0] = False
    gaps = torch.rand(steps, B, 1, generator=generator, dtype=torch.float64)
    elapsed = torch.zeros(steps, B, I, dtype=torch.float64)
    for t in range(1, steps):
        elapsed[t] = gaps[t] + torch.where(mask[t - 1], 0.0, elapsed[t - 1])
    mean = torch.randn(I, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), mask, elapsed.requires_grad_(), mean.requires_grad_()


def by_hand(layer, x, mask, elapsed, mean):
    rnn = layer.rnn
    (W_z, V_z), (W_r, V_r), (W_n, V_n) = (w.split(I, 1) for w in rnn.weight_ih_l0.chunk(3))
    U_z, U_r, U_n = rnn.weight_hh_l0.chunk(3)
    b_z, b_r, b_n = (rnn.bias_ih_l0 + rnn.bias_hh_l0).chunk(3)
    last, h, outputs = mean.expand(x.shape[1], I), torch.zeros(x.shape[1], H, dtype=x.dtype), []
    for x_t, m_t, d_t in zip(x, mask, elapsed, strict=True):
        last = torch.where(m_t, x_t, last)
        gamma = exp(-torch.clamp(layer.decay_weight * d_t + layer.decay_bias, min=0))
        m = m_t.to(x.dtype)
        filled = torch.where(m_t, x_t, 0.0) + (1 - m) * (gamma * last + (1 - gamma) * mean)
        h = exp(-torch.clamp(d_t @ layer.fading.weight.T + layer.fading.bias, min=0)) * h
        z = sigmoid(filled @ W_z.T + h @ U_z.T + m @ V_z.T + b_z)
        r = sigmoid(filled @ W_r.T + h @ U_r.T + m @ V_r.T + b_r)
        n = tanh(filled @ W_n.T + (r * h) @ U_n.T + m @ V_n.T + b_n)
        h = (1 - z) * h + z * n
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("driver", ["auto", "eager", "aten", "script"])
def test_it_is_the_papers(driver):
    torch.manual_seed(0)
    layer, given = GRUD(I, H, driver=driver, dtype=torch.float64), draw()
    output, final = layer(*given)
    expected = by_hand(layer, *given)
    assert_close(output, expected, **CLOSE)
    assert_close(final[0], expected[-1], **CLOSE)
    leaves = [given[0], given[2], given[3], *layer.parameters()]
    probe = torch.rand_like(expected)
    found = torch.autograd.grad(output, leaves, probe)
    assert_close(found, torch.autograd.grad(expected, leaves, probe), **CLOSE)


def test_batch_first_and_a_state():
    layer, (x, mask, elapsed, mean) = GRUD(I, H, dtype=torch.float64), draw()
    other = copy.deepcopy(layer)
    other.batch_first = other.rnn.batch_first = True
    state = torch.rand(1, B, H, dtype=torch.float64)
    expected, final = layer(x, mask, elapsed, mean, state)
    output, last = other(x.transpose(0, 1), mask.transpose(0, 1), elapsed.transpose(0, 1), mean, state)
    assert_close(output.transpose(0, 1), expected, **CLOSE)
    assert_close(last, final, **CLOSE)
    assert not torch.equal(expected, layer(x, mask, elapsed, mean)[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_what_is_missing_or_beyond_an_end_reaches_nothing(batch_first):
    layer, (x, mask, elapsed, mean) = GRUD(I, H, batch_first, dtype=torch.float64), draw()
    lengths = torch.tensor([T, 0, 3])
    beyond = (torch.arange(T)[:, None] >= lengths).unsqueeze(2)
    nan = float("nan")
    broken = x.masked_fill(~mask | beyond, nan), mask | beyond, elapsed.masked_fill(beyond, nan)
    clean = x.masked_fill(~mask, 0.0), mask, elapsed
    found = []
    for values in (broken, clean):
        turned = [v.transpose(0, 1) for v in values] if batch_first else values
        output, final = layer(*turned, mean, lengths=lengths)
        gradients = torch.autograd.grad(output.sum(), [x, elapsed, mean, *layer.parameters()])
        found.append((output, final, gradients))
    assert_close(found[0], found[1], **CLOSE)
    assert all(d.isfinite().all() for d in found[0][2])


def test_no_steps():
    layer, (x, mask, elapsed, mean) = GRUD(I, H, dtype=torch.float64), draw(0)
    assert layer(x, mask, elapsed, mean)[0].shape == (0, B, H)


def test_it_is_pickled_and_named():
    layer = pickle.loads(pickle.dumps(GRUD(I, H)))
    names = [name for name, _ in layer.named_parameters()]
    assert names[:2] == ["decay_weight", "decay_bias"]
    assert layer.rnn.weight_ih_l0.shape == (3 * H, 2 * I)
    assert layer.fading.weight.shape == (H, I)


REFUSED = {
    "mask": (lambda x, m, e, a: (x, m.double(), e, a), TypeError, "mask must be a tensor of bools. Got torch.float64."),
    "features": (lambda x, m, e, a: (x[..., 1:], m, e, a), ValueError, "the last of size 4. Got (7, 3, 3)."),
    "rank": (lambda x, m, e, a: (x[0], m, e, a), ValueError, "x must have three dimensions"),
    "mask's shape": (lambda x, m, e, a: (x, m[1:], e, a), ValueError, "mask must have shape (7, 3, 4). Got (6, 3, 4)."),
    "elapsed": (lambda x, m, e, a: (x, m, e[..., 0], a), ValueError, "elapsed must have shape (7, 3, 4). Got (7, 3)."),
    "mean": (lambda x, m, e, a: (x, m, e, a[1:]), ValueError, "mean must have shape (4,). Got (3,)."),
    "x's dtype": (
        lambda x, m, e, a: (x.half(), m, e, a),
        ValueError,
        "x must have the weights' dtype torch.float64. Got torch.float16.",
    ),
    "elapsed's dtype": (
        lambda x, m, e, a: (x, m, e.float(), a),
        ValueError,
        "elapsed must have the weights' dtype torch.float64. Got torch.float32.",
    ),
    "mean's dtype": (
        lambda x, m, e, a: (x, m, e, a.long()),
        ValueError,
        "mean must have the weights' dtype torch.float64. Got torch.int64.",
    ),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_refusals(wrong):
    change, kind, text = REFUSED[wrong]
    with pytest.raises(kind, match=re.escape(text)):
        GRUD(I, H, dtype=torch.float64)(*change(*draw()))


def test_one_layer_in_one_direction():
    for name in ("num_layers", "bidirectional"):
        with pytest.raises(ValueError, match=rf"whose past is known\. Got {name}\."):
            GRUD(I, H, **{name: 2})

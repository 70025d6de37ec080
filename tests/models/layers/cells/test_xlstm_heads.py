"""sLSTM with heads against its paper's equations, written out once more, and against the xlstm package where it is."""

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from gatefuse import Recurrent
from tests.support.layers import gradients

T, B, I, H, N = 7, 3, 5, 8, 2
h = H // N
DOUBLE = {"dtype": torch.float64}


def by_hand(layer, x):
    """Equations 8 to 17 and the heads of Beck et al. 2024, arXiv:2405.04517: the memory mixes within a head alone."""
    R = layer.weight_hh_l0.view(4, N, h, h)
    state = [x.new_zeros(x.shape[1], N, h) for _ in range(4)]
    outputs = []
    for t, step in enumerate(x):
        y, c, n, m = state
        inner = torch.einsum("bnj,gnij->gbni", y, R) + layer.bias_hh_l0.view(4, 1, N, h)
        outer = step @ layer.weight_ih_l0.T + layer.bias_ih_l0
        i, f, z, o = inner + outer.view(-1, 4, N, h).transpose(0, 1)
        log_f = logsigmoid(f) + m
        m = torch.maximum(log_f, i) if t else i
        i, f = torch.exp(i - m), torch.exp(log_f - m) if t else torch.zeros_like(f)
        c, n = f * c + i * torch.tanh(z), f * n + i
        state = [torch.sigmoid(o) * c / n, c, n, m]
        outputs.append(state[0].flatten(1))
    return torch.stack(outputs), tuple([s.flatten(1)[None] for s in state])


def test_the_papers_equations():
    layer = Recurrent("slstm", I, H, **DOUBLE, heads=N)
    x = torch.randn(T, B, I, **DOUBLE, requires_grad=True)
    for driver in ("auto", "eager", "llvm", "aten", "script"):
        layer.driver = driver
        found, expected = layer(x), by_hand(layer, x)
        assert_close(found, expected)
        leaves = [x, *layer.parameters()]
        assert_close(gradients(found, leaves), gradients(expected, leaves))


def test_the_xlstm_package():
    """Its R holds, head by head, rows by gate and then unit, and its bias rows by gate, head and unit; it is given what
    here is the product of the input."""
    package = pytest.importorskip("xlstm.blocks.slstm.cell", reason="the package xlstm isn't there")
    config = package.sLSTMCellConfig(
        hidden_size=H, num_heads=N, backend="vanilla", dtype="float32", recurrent_weight_init="standard",
        input_shape="SBGNH", output_shape="SBH", enable_automatic_mixed_precision=False,
    )  # fmt: skip
    theirs = package.sLSTMCell(config).double()
    layer = Recurrent("slstm", I, H, **DOUBLE, heads=N)
    kernel, bias = theirs._recurrent_kernel_, theirs._bias_
    with torch.no_grad():
        kernel.copy_(torch.randn_like(kernel) / h**0.5)
        layer.weight_hh_l0.copy_(kernel.view(N, 4, h, h).transpose(0, 1).reshape(4 * H, h))
        layer.bias_hh_l0.copy_(bias)
        layer.bias_ih_l0.zero_()
    x = torch.randn(T, B, I, **DOUBLE, requires_grad=True)
    output, states = layer(x)
    expected, last = theirs(x @ layer.weight_ih_l0.T)
    assert_close(output, expected)
    assert_close(torch.cat(states), last)
    ours = gradients(output, [x, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_hh_l0])
    d_x, d_input, d_kernel, d_bias = gradients(expected, [x, layer.weight_ih_l0, kernel, bias])
    d_kernel = d_kernel.view(N, 4, h, h).transpose(0, 1).reshape(4 * H, h)
    for one, two in zip(ours, (d_x, d_input, d_kernel, d_bias), strict=True):
        assert_close(one, two)

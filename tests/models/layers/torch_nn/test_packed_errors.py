"""A PackedSequence, or states beside one, that torch.nn.LSTM would take and read or write beyond its memory for."""

import re

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import gatefuse

T, B, I, H = 5, 2, 3, 4
DRIVERS = ("auto", "vendor", "eager", "script", "aten", "llvm")
BUILDS = [
    gatefuse.LSTM,
    gatefuse.GRU,
    gatefuse.RNN,
    lambda *args, **options: gatefuse.Recurrent("lstm", *args, **options),
]


def refused(layer, given, text):
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
            layer(*given)


@pytest.mark.parametrize("steps", [1, T, 25])
@pytest.mark.parametrize("size", [I - 1, I + 4])
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("build", BUILDS, ids=["LSTM", "GRU", "RNN", "Recurrent"])
@pytest.mark.parametrize("full", [True, False])
def test_another_feature_size(full, build, driver, size, steps):
    lengths = [steps, steps if full else max(1, steps - 1)]
    layer, x = build(I, H, driver=driver), pack_padded_sequence(torch.randn(steps, B, size), lengths)
    text = f"x must have input_size {I} as its last dimension. Got {size}."
    if isinstance(layer, (gatefuse.GRU, gatefuse.RNN)) and driver in ("auto", "vendor"):
        # torch.nn's own words, but where others are faster
        for grad in (True, False):
            with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="input_size"):
                layer(x)
    else:
        refused(layer, (x,), text)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("h", "c", "text"),
    [
        ((1, 1, H), (1, B, H), "hx h must have shape (1, 2, 4). Got (1, 1, 4)."),
        ((1, B, H), (1, 1, H), "hx c must have shape (1, 2, 4). Got (1, 1, 4)."),
        ((2, B, H), (2, B, H), "hx h must have shape (1, 2, 4). Got (2, 2, 4)."),
        ((1, B, I), (1, B, H), "hx h must have shape (1, 2, 4). Got (1, 2, 3)."),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_states_of_another_shape(full, h, c, text, driver):
    x = pack_padded_sequence(torch.randn(T, B, I), [T, T if full else 3])
    refused(gatefuse.LSTM(I, H, driver=driver), (x, (torch.randn(h), torch.randn(c))), text)


@pytest.mark.parametrize("driver", ["auto", "vendor"])
def test_with_a_projection(driver):
    layer = gatefuse.LSTM(I, H, proj_size=2, driver=driver, dtype=torch.float64)
    x = pack_padded_sequence(torch.randn(T, B, I, dtype=torch.float64), [T, T])
    h, c = (torch.randn(1, B, size, dtype=torch.float64) for size in (2, H))
    assert layer(x, (h, c))[1][0].shape == (1, B, 2)
    refused(layer, (x, (c, c)), "hx h must have shape (1, 2, 2). Got (1, 2, 4).")
    refused(layer, (x, (h, h)), "hx c must have shape (1, 2, 4). Got (1, 2, 2).")


def test_data_of_another_rank():
    x = pack_padded_sequence(torch.randn(T, B, I), [T, T])
    x = PackedSequence(x.data.unsqueeze(1), x.batch_sizes)
    refused(gatefuse.LSTM(I, H), (x,), "a PackedSequence's data must have shape (N, I). Got (10, 1, 3).")

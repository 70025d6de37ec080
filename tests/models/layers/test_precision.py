"""Mixed precision and tf32: as torch.nn's layers have them."""

import copy
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close
from torch.torch_version import TorchVersion

import gatefuse
from gatefuse import find_cell
from gatefuse.kernels.drivers import block, common, grid
from gatefuse.kernels.task import Request
from tests.support.layers import flat

T, B, I, H = 5, 3, 4, 6


def train(model, dtype, steps=3):
    """Steps of mixed-precision training with scaled losses: the outputs of the last, and the parameters."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            results = flat(model(torch.randn(T, B, I)))
            loss = sum(r.float().square().sum() for r in results)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return results, list(model.parameters())


@pytest.mark.parametrize("driver", ["vendor", "auto", "eager"])
@pytest.mark.parametrize(("name", "dtype"), [("LSTM", torch.bfloat16), ("RNN", torch.bfloat16), ("RNN", torch.float16)])
def test_autocast_and_scaled_gradients(name, dtype, driver):
    theirs = getattr(nn, name)(I, H, 2)
    layer = copy.deepcopy(theirs)
    gatefuse.accelerate(layer, driver=driver)
    start = copy.deepcopy(list(theirs.parameters()))
    close = {"rtol": 0, "atol": 0} if driver == "vendor" else {"rtol": 0.05, "atol": 0.05}
    expected, weights = train(theirs, dtype)
    results, trained = train(layer, dtype)
    assert {r.dtype for r in results} == {r.dtype for r in expected} == {dtype}
    assert {p.dtype for p in trained} == {torch.float32}
    assert_close(results, expected, **close)
    assert_close(trained, weights, **close)
    assert all(not torch.equal(a, b) for a, b in zip(trained, start, strict=True))


@pytest.mark.parametrize("driver", ["auto", "eager"])
def test_a_gru_stays_in_float32_under_autocast_on_a_cpu(driver):
    """As torch's, whose products are in autocast's dtype for all that; ours are not."""
    theirs, ours, plain = nn.GRU(I, H), gatefuse.GRU(I, H, driver=driver), gatefuse.GRU(I, H)
    for layer in (ours, plain):
        layer.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = flat(ours(x)), flat(theirs(x))
        assert {value.dtype for value in flat(ours(x.bfloat16()))} == {torch.bfloat16}
    assert {value.dtype for value in found} == {value.dtype for value in expected} == {torch.float32}
    assert_close(found, flat(plain(x)))
    assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("driver", ["auto", "eager"])
def test_an_lstm_in_float16_under_autocast(driver):
    """torch's own runs only where oneDNN has instructions for it."""
    layer = gatefuse.LSTM(I, H, driver=driver)
    results, _ = train(layer, torch.float16)
    assert {r.dtype for r in results} == {torch.float16}


@pytest.mark.parametrize("driver", [block, grid])
def test_float32_on_the_matrix_unit_needs_the_flag_of_cudnns_layers(monkeypatch, driver):
    """On a GPU; steps, whose products are torch's, run in any case."""
    monkeypatch.setattr(common, "interpreted", lambda: False)
    request = Request(find_cell("lstm"), torch.device("cuda"), torch.float32, 4, 8, 64)
    with torch.backends.cudnn.flags(allow_tf32=False):
        why = driver.refusal(request)
        assert why == "float32 on the matrix unit is tf32, which torch.backends.cudnn.allow_tf32 forbids"
        assert common.refusal(request) == ""
        assert driver.refusal(replace(request, dtype=torch.float64)) != why


@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 4, 3], [5, 1, 1]], ids=str)
@pytest.mark.parametrize("build", [gatefuse.LSTM, partial(gatefuse.Recurrent, "lstm"), gatefuse.GRU], ids=str)
def test_lengths_and_autocast_give_one_dtype(build, lengths):
    layer = build(I, H)
    x = torch.randn(5, 3, I)
    expected = flat(layer(x, lengths=lengths))
    with torch.autocast("cpu", torch.bfloat16):
        found = flat(layer(x, lengths=lengths))
    assert {value.dtype for value in found} == {torch.float32 if build is gatefuse.GRU else torch.bfloat16}
    assert_close([value.float() for value in found], expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("driver", ["vendor", "auto"])
def test_packed_input_under_autocast_is_torch_nns(name, dtype, driver):
    theirs, ours = getattr(nn, name)(I, H), getattr(gatefuse, name)(I, H, driver=driver)
    ours.load_state_dict(theirs.state_dict())
    x = pack_padded_sequence(torch.randn(5, 3, I), torch.tensor([5, 4, 4]))
    with torch.autocast("cpu", dtype):
        found, expected = ours(x), theirs(x)
    close = {"rtol": 0, "atol": 0} if driver == "vendor" else {"rtol": 0.05, "atol": 0.05}
    assert_close([found[0].data, *flat(found[1])], [expected[0].data, *flat(expected[1])], **close)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["torch.backends.fp32_precision", "torch.backends.cudnn.rnn.fp32_precision"])
@pytest.mark.parametrize("value", ["ieee", "tf32"])
def test_settings_by_fp32_precision_are_followed(setting, value):
    """After them, torch raises where the older flags are read; in a process of its own, as they stay."""
    if setting == "torch.backends.fp32_precision" and TorchVersion(torch.__version__) < "2.13":
        pytest.skip("in torch 2.11 it doesn't reach cuDNN, which has a setting of its own from the start")
    program = f"""
import torch
import gatefuse
from gatefuse.bench.measure.peaks import _tf32_as_cudnn
from gatefuse.bench.measure.stamp import take_stamp
from gatefuse.kernels.runtime.settings import tf32_allowed
{setting} = "{value}"
layer = gatefuse.Recurrent("peephole_lstm", 4, 6)
layer(torch.randn(3, 2, 4))
torch.compile(layer, backend="eager", fullgraph=True)(torch.randn(3, 2, 4))
gatefuse.LSTM(4, 6)(torch.randn(3, 2, 4), lengths=[3, 2])
assert torch.compile(lambda x: x + tf32_allowed(), backend="eager", fullgraph=True)(torch.zeros(())) == tf32_allowed()
with _tf32_as_cudnn():
    assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if tf32_allowed() else "ieee")
take_stamp(torch.device("cpu"))
print(tf32_allowed())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    assert done.stdout.strip() == str(value == "tf32")

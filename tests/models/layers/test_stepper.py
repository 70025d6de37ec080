"""Steps one by one against the whole sequence."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, Stepper
from gatefuse.kernels.drivers import llvm
from tests.support.layers import WITHOUT_INPUTS

T, B, I, H = 6, 3, 5, 20


def run(stepper, x):
    return torch.stack([stepper.step(step).clone() for step in x])


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, B, 17])
@pytest.mark.parametrize("cell", WITHOUT_INPUTS)
def test_steps_are_those_of_the_sequence(cell, batch, dtype):
    layer = Recurrent(cell, I, H, num_layers=2, driver="eager", dtype=dtype)
    x = torch.randn(T, batch, I, dtype=dtype)
    with torch.no_grad():
        expected, finals = layer(x)
    layer.driver = "auto"
    stepper = Stepper(layer, batch)
    assert_close(run(stepper, x), expected)
    assert_close(as_tuple(stepper.state), as_tuple(finals))
    assert "compiled" in repr(stepper)


@pytest.mark.parametrize("layer", [gatefuse.LSTM, gatefuse.GRU, gatefuse.RNN])
def test_layers_of_torchs_form(layer):
    layer, x = layer(I, H, num_layers=2, batch_first=True, dropout=0.5), torch.randn(B, T, I)
    with torch.no_grad():
        expected, _ = layer.eval()(x)
    assert_close(run(Stepper(layer.train(), B), x.transpose(0, 1)), expected.transpose(0, 1))


def test_where_no_code_can_be_compiled_the_layer_runs(monkeypatch):
    monkeypatch.setattr(llvm, "_HAS_LLVM", False)
    layer, x = Recurrent("lstm", I, H, num_layers=2, dropout=0.5), torch.randn(T, B, I)
    stepper = Stepper(layer, B)
    assert "by the layer" in repr(stepper)
    with torch.no_grad():
        expected, finals = layer.eval()(x)
    layer.train()
    assert_close(run(stepper, x), expected)
    assert_close(stepper.state, finals)
    assert layer.training


def test_a_cell_that_can_not_be_translated():
    @gatefuse.cell(gates="a")
    def noisy(x, R, h):
        return torch.tanh(x.a + R.a(h)).sort(1).values

    layer, x = Recurrent(noisy, I, H), torch.randn(T, B, I)
    with torch.no_grad():
        assert_close(run(Stepper(layer, B), x), layer(x)[0])


@pytest.mark.parametrize("given", [False, True])
def test_streams_begin_anew_where_the_mask_says(given):
    layer, x = Recurrent("slstm", I, H, num_layers=2), torch.randn(T, B, I)
    fresh = tuple(0.1 * torch.rand(2, B, H) + 0.5 for _ in layer.cell.states) if given else None
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[3, 1] = True
    with torch.no_grad():
        expected, _ = layer(x, resets=resets, reset_state=fresh)
    stepper, found = Stepper(layer, B), []
    for t, step in enumerate(x):
        stepper.reset(resets[t], fresh)
        found.append(stepper.step(step).clone())
    assert_close(torch.stack(found), expected)
    stepper.reset(state=fresh)
    assert_close(stepper.state, fresh or Stepper(layer, B).state)


def test_states_go_in_and_out():
    layer, x = gatefuse.LSTM(I, H), torch.randn(T, B, I)
    state = torch.randn(1, B, H), torch.randn(1, B, H)
    with torch.no_grad():
        expected, _ = layer(x, state)
    stepper = Stepper(layer, B, state)
    first = run(stepper, x[:3])
    kept = stepper.state
    rest = run(stepper, x[3:])
    assert_close(torch.cat([first, rest]), expected)
    stepper.state = kept
    assert torch.equal(run(stepper, x[3:]), rest)
    assert all(s.requires_grad is False for s in kept)


def by_optimizer(layer):
    layer(torch.randn(T, B, I))[0].sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.5).step()


def by_state_dict(layer):
    layer.load_state_dict({name: value * 0.5 for name, value in layer.state_dict().items()})


@pytest.mark.parametrize("change", [by_optimizer, by_state_dict])
@pytest.mark.parametrize("parametrized", [False, True])
def test_a_step_is_of_the_weights_as_they_are(parametrized, change):
    layer, x = gatefuse.LSTM(I, H), torch.randn(T, B, I)
    if parametrized:
        weight_norm(layer, "weight_hh_l0")
    stepper = Stepper(layer, B)
    run(stepper, x)
    change(layer)
    stepper.reset()
    with torch.no_grad():
        assert_close(run(stepper, x), layer(x)[0])


def test_weights_that_count_no_changes_are_read_by_refresh():
    layer, x = gatefuse.GRU(I, H), torch.randn(T, B, I)
    stepper = Stepper(layer, B)
    before = run(stepper, x)
    layer.weight_hh_l0.data.mul_(0.5)
    stepper.reset()
    assert torch.equal(run(stepper, x), before)
    stepper.reset()
    stepper.refresh()
    with torch.no_grad():
        assert_close(run(stepper, x), layer(x)[0])
    with torch.inference_mode():
        frozen = gatefuse.GRU(I, H)
        assert_close(run(Stepper(frozen, B), x), frozen(x)[0])


def test_a_step_gives_the_same_tensor_anew():
    stepper, x = Stepper(gatefuse.LSTM(I, H), B), torch.randn(B, I)
    output = stepper.step(x)
    assert stepper.step(x) is output
    assert not output.requires_grad
    assert_close(stepper(x.t().contiguous().t()), output)


def test_one_sample_s_steps_are_the_same_in_every_batch():
    layer, x = Recurrent("lstm", I, H), torch.randn(T, 13, I)
    whole = run(Stepper(layer, 13), x)
    for b in (0, 5, 12):
        assert torch.equal(run(Stepper(layer, 1), x[:, b : b + 1]), whole[:, b : b + 1])


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            (torch.nn.LSTM(I, H), 1),
            TypeError,
            r"^layer must be a Recurrent, LSTM, GRU or RNN of gatefuse's, as accelerate .*\. Got torch\.nn\.\S*LSTM\.$",
        ),
        ((gatefuse.GRU(I, H), 1.0), TypeError, "batch_size must be an int. Got float."),
        ((gatefuse.GRU(I, H), 0), ValueError, "batch_size must be greater than zero. Got 0."),
        (
            (gatefuse.GRU(I, H, bidirectional=True), 1),
            ValueError,
            "layer must run in one direction: a stream's last step",
        ),
        ((gatefuse.LSTM(I, H, proj_size=2), 1), ValueError, "layer must have no projection. Got proj_size 2."),
        (
            (gatefuse.GRU(I, H), 2, torch.zeros(1, 3, H)),
            RuntimeError,
            r"state h must have shape \(1, 2, 20\). Got \(1, 3,",
        ),
    ],
)
def test_what_a_stepper_refuses(arguments, error, text):
    with pytest.raises(error, match=text):
        Stepper(*arguments)


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        ([1.0], TypeError, "x must be a tensor. Got list."),
        (torch.zeros(B, I + 1), RuntimeError, r"x must have shape \(3, 5\). Got \(3, 6\)."),
        (torch.zeros(1, B, I), RuntimeError, r"x must have shape \(3, 5\). Got \(1, 3, 5\)."),
        (
            torch.zeros(B, I, dtype=torch.float64),
            RuntimeError,
            "x must have the weights' dtype torch.float32. Got torch.float64.",
        ),
        (torch.zeros(B, I, device="meta"), RuntimeError, "x must be on the weights' device cpu. Got meta."),
    ],
)
def test_what_a_step_refuses(x, error, text):
    with pytest.raises(error, match=text):
        Stepper(gatefuse.GRU(I, H), B).step(x)


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (torch.zeros(B), TypeError, "mask must be a tensor of bools. Got torch.float32."),
        ([True], TypeError, "mask must be a tensor of bools. Got list."),
        (torch.zeros(B + 1, dtype=torch.bool), ValueError, r"mask must have shape \(3,\). Got \(4,\)."),
    ],
)
def test_what_a_reset_refuses(mask, error, text):
    with pytest.raises(error, match=text):
        Stepper(gatefuse.GRU(I, H), B).reset(mask)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda stepper: pickle.loads(pickle.dumps(stepper))])
def test_a_copy_goes_on_by_itself(copied):
    stepper, x = Stepper(gatefuse.LSTM(I, H), B), torch.randn(T, B, I)
    run(stepper, x[:2])
    other = copied(stepper)
    assert torch.equal(run(other, x[2:]), run(stepper, x[2:]))


def test_a_stepper_made_in_inference_mode_can_be_reset_outside():
    with torch.inference_mode():
        stepper = Stepper(gatefuse.GRU(I, H), B)
        stepper.step(torch.randn(B, I))
    stepper.reset(torch.tensor([True, False, True]))
    stepper.state = torch.zeros(1, B, H)


def test_refresh_takes_another_dtype():
    layer, x = gatefuse.GRU(I, H), torch.randn(T, B, I, dtype=torch.float64)
    stepper = Stepper(layer, B)
    layer.double()
    stepper.refresh()
    with torch.no_grad():
        assert_close(run(stepper, x), layer(x)[0])


def test_another_default_device_is_nothing_to_a_stepper():
    layer = gatefuse.Recurrent("augru", I, H)
    x, score = torch.randn(T, B, I), torch.rand(T, B)
    with torch.no_grad(), torch.device("meta"):
        stepper = Stepper(layer, B)
        found = [stepper.step(each, {"a": s}).clone() for each, s in zip(x, score, strict=True)]
        assert_close(torch.stack(found), layer(x, inputs={"a": score})[0])

"""Inputs beside the gates: every shape, driver, option and gradient against plain loops."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

from gatefuse import Recurrent, Stepper, warmup
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.task import Request
from tests.support.cells_with_inputs import aging, aging_by_hand, draw, scored, scored_by_hand, wide

T, B, I, H = 6, 4, 3, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
EXACT = ("auto", "eager", "script", "aten", "llvm")
KERNELS = ("step", "block", "grid")
SHAPES = ((T, B), (T, B, 1), (T, B, H), (1, B), (T, 1), (1, B, H), (1, 1, H))
BY_HAND = {"scored": scored_by_hand, "aging": aging_by_hand}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def by_hand(layer, x, inputs, suffix="_l0"):
    """The steps of a layer of one direction from the cell's first states."""
    cell, (T, B, _) = layer.cell, x.shape
    first = tuple(torch.full((B, H), value, dtype=x.dtype) for value in cell.init)
    given = {name: wide(value, T, B, H) for name, value in inputs.items()}
    return BY_HAND[cell.name](layer, x, given, first if len(first) > 1 else first[0], suffix)


def outputs(steps):
    return torch.stack([step[0] for step in steps])


def assert_same(ours, theirs, leaves):
    assert_close(ours, theirs, **CLOSE)
    probe = torch.rand_like(theirs)
    found = torch.autograd.grad(ours, leaves, probe)
    assert_close(found, torch.autograd.grad(theirs, leaves, probe), **CLOSE)


@pytest.mark.parametrize("driver_name", EXACT)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_by_every_driver(generator, shape, driver_name):
    layer, x = Recurrent(scored, I, H, driver=driver_name, dtype=torch.float64), draw(generator, T, B, I)
    a = draw(generator, *shape)
    output, h_n = layer(x, inputs={"a": a})
    assert_close(h_n[0], output[-1])
    assert_same(output, outputs(by_hand(layer, x, {"a": a})), [x, a, *layer.parameters()])


@pytest.mark.parametrize("driver_name", EXACT)
def test_several_inputs_and_states(generator, driver_name):
    layer, x = Recurrent(aging, I, H, driver=driver_name, dtype=torch.float64), draw(generator, T, B, I)
    inputs = {"left": draw(generator, T, B), "age": draw(generator, 1, B, H)}
    (h, c), (h_n, c_n) = layer(x, inputs=inputs, all_states=True)
    steps = by_hand(layer, x, inputs)
    assert_close((h_n[0], c_n[0]), steps[-1], **CLOSE)
    expected = torch.cat([outputs(steps), torch.stack([step[1] for step in steps])])
    assert_same(torch.cat([h, c]), expected, [x, *inputs.values(), *layer.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("driver_name", KERNELS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("T", "H"), [(T, H), (2, 66)], ids=["few units", "spare units"])
def test_kernels(generator, driver_name, bidirectional, T, H):
    layer = Recurrent(aging, I, H, num_layers=2, bidirectional=bidirectional, driver=driver_name)
    if why := driver(driver_name).refusal(Request(aging, torch.device("cpu"), torch.float32, T, B, H)):
        pytest.skip(why)
    x = draw(generator, T, B, I, dtype=torch.float32)
    inputs = {"age": draw(generator, T, B, dtype=torch.float32), "left": draw(generator, T, 1, H, dtype=torch.float32)}
    oracle = copy.deepcopy(layer).double()
    oracle.driver = "eager"
    exact = {name: value.detach().double().requires_grad_() for name, value in inputs.items()}
    exact_x = x.detach().double().requires_grad_()
    ours, theirs = layer(x, inputs=inputs)[0], oracle(exact_x, inputs=exact)[0]
    assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(ours.sum(), [x, *inputs.values(), *layer.parameters()])
    expected = torch.autograd.grad(theirs.sum(), [exact_x, *exact.values(), *oracle.parameters()])
    assert_close([d.double() for d in found], list(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("driver_name", EXACT)
def test_layers_and_directions_are_given_the_same(generator, driver_name):
    layer = Recurrent(scored, I, H, num_layers=2, bidirectional=True, driver=driver_name, dtype=torch.float64)
    x, a = draw(generator, T, B, I), draw(generator, T, B)
    expected = x
    for k in range(2):
        ahead = outputs(by_hand(layer, expected, {"a": a}, f"_l{k}"))
        back = outputs(by_hand(layer, expected.flip(0), {"a": a.flip(0)}, f"_l{k}_reverse")).flip(0)
        expected = torch.cat([ahead, back], 2)
    assert_same(layer(x, inputs={"a": a})[0], expected, [x, a, *layer.parameters()])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("units", [(), (H,)], ids=["a number", "units"])
def test_batch_first_and_no_batch(generator, batch_first, units):
    layer = Recurrent(scored, I, H, batch_first=batch_first, dtype=torch.float64)
    x, a = draw(generator, T, B, I), draw(generator, T, B, *units)
    expected = outputs(by_hand(layer, x, {"a": a}))
    if batch_first:
        output, _ = layer(x.transpose(0, 1), inputs={"a": a.transpose(0, 1)})
        assert_close(output.transpose(0, 1), expected, **CLOSE)
    else:
        assert_close(layer(x, inputs={"a": a})[0], expected, **CLOSE)
    output, _ = layer(x[:, 0], inputs={"a": a[:, 0]})
    assert_close(output, expected[:, 0], **CLOSE)


def test_a_shape_means_the_same_where_steps_samples_and_units_are_as_many(generator):
    layer = Recurrent(scored, I, H, dtype=torch.float64)
    x, a = draw(generator, H, H, I), draw(generator, H, H)
    full = layer(x, inputs={"a": a.unsqueeze(2).expand(H, H, H)})[0]
    assert_close(layer(x, inputs={"a": a})[0], full)


@pytest.mark.parametrize("driver_name", EXACT)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_lengths(generator, driver_name, bidirectional):
    """Each sample is as if it were alone, and what lies beyond its end reaches nothing."""
    layer = Recurrent(aging, I, H, bidirectional=bidirectional, driver=driver_name, dtype=torch.float64)
    x, lengths = draw(generator, T, B, I), torch.tensor([6, 2, 0, 4])
    inputs = {"age": draw(generator, T, B), "left": draw(generator, 1, B, H)}
    beyond = torch.arange(T)[:, None] >= lengths
    broken = {"age": inputs["age"].masked_fill(beyond, float("nan")), "left": inputs["left"]}
    output, finals = layer(x.masked_fill(beyond.unsqueeze(2), float("inf")), inputs=broken, lengths=lengths)
    leaves = [x, inputs["age"], inputs["left"], *layer.parameters()]
    found = torch.autograd.grad(output.sum(), leaves)
    total = torch.zeros((), dtype=torch.float64)
    for b, n in enumerate(lengths.tolist()):
        assert not output[n:, b].any()
        if n:
            given = {"age": inputs["age"][:n, b : b + 1], "left": inputs["left"][:, b : b + 1]}
            alone, ends = layer(x[:n, b : b + 1], inputs=given)
            assert_close(output[:n, b : b + 1], alone, **CLOSE)
            assert_close([s[:, b] for s in finals], [s[:, 0] for s in ends], **CLOSE)
            total = total + alone.sum()
    assert_close(found, torch.autograd.grad(total, leaves), **CLOSE)


@pytest.mark.parametrize("driver_name", EXACT)
def test_an_input_that_equations_divide_by_leaves_padding_finite(generator, driver_name):
    layer = Recurrent(aging, I, H, driver=driver_name, dtype=torch.float64)
    x, lengths = draw(generator, T, B, I), torch.tensor([6, 2, 0, 4])
    beyond = torch.arange(T)[:, None] >= lengths
    left = draw(generator, T, B).detach().masked_fill(beyond, -1.0).requires_grad_()
    output, _ = layer(x, inputs={"age": left, "left": left}, lengths=lengths)
    gradients = torch.autograd.grad(output.sum(), [x, left, *layer.parameters()])
    assert all(d.isfinite().all() for d in gradients)


@pytest.mark.parametrize("driver_name", EXACT)
def test_resets(generator, driver_name):
    layer = Recurrent(aging, I, H, driver=driver_name, dtype=torch.float64)
    x, inputs = draw(generator, T, B, I), {"age": draw(generator, T, B), "left": draw(generator, T, B)}
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    parts = [slice(0, 2), slice(2, T)]
    pieces = [by_hand(layer, x[p], {name: value[p] for name, value in inputs.items()}) for p in parts]
    expected = torch.cat([outputs(steps) for steps in pieces])
    leaves = [x, *inputs.values(), *layer.parameters()]
    assert_same(layer(x, inputs=inputs, resets=resets)[0], expected, leaves)


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("how", ["packed", "padded", "a number a sample"])
def test_packed_input(generator, enforce_sorted, how):
    layer = Recurrent(scored, I, H, bidirectional=True, num_layers=2, dtype=torch.float64)
    lengths = torch.tensor([6, 5, 2, 1] if enforce_sorted else [2, 6, 1, 5])
    x, a = draw(generator, T, B, I), draw(generator, *((1, B) if how == "a number a sample" else (T, B, H)))
    expected, last = layer(x, inputs={"a": a}, lengths=lengths)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    given = pack_padded_sequence(a, lengths, enforce_sorted=enforce_sorted) if how == "packed" else a
    output, h_n = layer(packed, inputs={"a": given})
    assert_close(h_n, last, **CLOSE)
    assert_same(pad_packed_sequence(output)[0], expected, [x, a, *layer.parameters()])


def test_what_is_packed_otherwise_is_refused(generator):
    layer, x = Recurrent(scored, I, H, dtype=torch.float64), draw(generator, T, B, I)
    packed = pack_padded_sequence(x, torch.tensor([6, 4, 3, 1]))
    for lengths in ([6, 4, 2, 1], [6, 5, 3, 1]):
        other = pack_padded_sequence(draw(generator, T, B), torch.tensor(lengths))
        with pytest.raises(ValueError, match=r"input a must be packed as x is\. Got other lengths"):
            layer(packed, inputs={"a": other})
    data, sizes, order, back = pack_padded_sequence(x, torch.tensor([2, 6, 1, 4]), enforce_sorted=False)
    other = PackedSequence(data[:, 0], sizes, back, order)
    with pytest.raises(ValueError, match=r"input a must be packed as x is\. Got other lengths"):
        layer(PackedSequence(data, sizes, order, back), inputs={"a": other})
    with pytest.raises(TypeError, match=r"input a must be a tensor where x is one\. Got a PackedSequence"):
        layer(x, inputs={"a": packed})


REFUSED = {
    "none": (lambda a: None, ValueError, "inputs must be the inputs of scored (a), all of them. Got none for a."),
    "no names": (lambda a: a, TypeError, 'inputs must be tensors by name, such as {"a": a}. Got Tensor.'),
    "missing": (lambda a: {}, ValueError, "all of them. Got none for a."),
    "unknown": (lambda a: {"a": a, "b": a}, ValueError, "inputs must be the inputs of scored (a). Got b."),
    "a number": (lambda a: {"a": 0.5}, TypeError, "input a must be a tensor. Got float."),
    "a sample's": (lambda a: {"a": a[0]}, ValueError, "must have shape (6, 4), one number a sample, or (6, 4, 5)"),
    "turned": (lambda a: {"a": a.T}, ValueError, "with 1 in the place of what it is the same for. Got (4, 6)."),
    "units": (lambda a: {"a": a.new_ones(T, B, I)}, ValueError, "Got (6, 4, 3)."),
    "rank": (lambda a: {"a": a.new_ones(1, T, B, H)}, ValueError, "Got (1, 6, 4, 5)."),
    "dtype": (lambda a: {"a": a.float()}, RuntimeError, "must have x's dtype torch.float64. Got torch.float32."),
    "a mask": (lambda a: {"a": a > 0.5}, RuntimeError, "must have x's dtype torch.float64. Got torch.bool."),
    "device": (lambda a: {"a": a.to("meta")}, RuntimeError, "input a must be on x's device cpu. Got meta."),
}


@pytest.mark.parametrize("wrong", REFUSED)
@pytest.mark.parametrize("call", ["forward", "plan"])
def test_bad_inputs_are_refused_in_words(generator, call, wrong):
    layer, x = Recurrent(scored, I, H, dtype=torch.float64), draw(generator, T, B, I)
    make, kind, text = REFUSED[wrong]
    with pytest.raises(kind, match=re.escape(text)):
        getattr(layer, call)(x, inputs=make(draw(generator, T, B).detach()))


def test_a_cell_without_inputs_is_given_none(generator):
    layer, x = Recurrent("gru", I, H, dtype=torch.float64), draw(generator, T, B, I)
    assert_close(layer(x, inputs={})[0], layer(x)[0])
    with pytest.raises(ValueError, match=re.escape("inputs must be the inputs of gru (none). Got a.")):
        layer(x, inputs={"a": x})


def test_plan_says_who_runs(generator):
    layer, x = Recurrent(scored, I, H), draw(generator, T, B, I, dtype=torch.float32)
    assert layer.plan(x, inputs={"a": x[..., 0]}).driver == "llvm"
    # a gradient of the input alone is one
    layer.requires_grad_(False)
    output, _ = layer(x.detach(), inputs={"a": x[..., 0]})
    assert output.requires_grad


def test_gradients_twice(generator):
    layer, x, a = Recurrent(scored, I, 2, dtype=torch.float64), draw(generator, 3, 2, I), draw(generator, 3, 2)
    for name in ("eager", "aten", "llvm"):
        layer.driver = name
        assert torch.autograd.gradcheck(lambda x, a: layer(x, inputs={"a": a})[0], (x, a))
        assert torch.autograd.gradgradcheck(lambda x, a: layer(x, inputs={"a": a})[0], (x, a))


def test_dropout_between_layers(generator):
    x, a = draw(generator, T, B, I), draw(generator, T, B)
    layer = Recurrent(scored, I, H, num_layers=2, dropout=0.5, dtype=torch.float64)
    found = []
    for layer.driver in ("eager", "aten", "llvm"):
        torch.manual_seed(3)
        found.append(layer(x, inputs={"a": a})[0])
    assert_close(found[0], found[1], **CLOSE)
    assert_close(found[0], found[2], **CLOSE)


def test_autocast_rounds_inputs_too(generator):
    layer, x = Recurrent(scored, I, H), draw(generator, T, B, I, dtype=torch.float32)
    a = draw(generator, T, B)  # of another dtype, which autocast takes
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = layer(x, inputs={"a": a})
    assert output.dtype == torch.bfloat16
    expected = copy.deepcopy(layer).bfloat16()(x.bfloat16(), inputs={"a": a.bfloat16()})[0]
    assert torch.equal(output, expected)


def test_no_steps_and_no_samples(generator):
    layer = Recurrent(scored, I, H, num_layers=2, dtype=torch.float64)
    for steps, samples in ((0, B), (T, 0)):
        for shape in ((steps, samples), (1, samples, H)):
            output, _ = layer(draw(generator, steps, samples, I), inputs={"a": draw(generator, *shape)})
            assert output.shape == (steps, samples, H)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("form", [(B,), (B, 1), (B, H), (1, H)], ids=str)
@pytest.mark.parametrize("driver_name", ["auto", "eager"])
def test_steps_one_by_one(generator, driver_name, form, batch_first):
    layer = Recurrent(scored, I, H, num_layers=2, batch_first=batch_first, driver=driver_name, dtype=torch.float64)
    x, a = draw(generator, T, B, I).detach(), draw(generator, T, *form).detach()
    with torch.inference_mode():
        stepper = Stepper(layer, B)
    assert ("compiled" in repr(stepper)) == (driver_name == "auto")
    found = torch.stack([stepper.step(x_t, inputs={"a": a_t}).clone() for x_t, a_t in zip(x, a, strict=True)])
    layer.batch_first = False
    assert_close(found, layer(x, inputs={"a": a})[0], **CLOSE)
    assert not stepper.step(x[0], inputs={"a": a[0].requires_grad_()}).requires_grad
    with pytest.raises(ValueError, match=re.escape("all of them. Got none for a.")):
        stepper.step(x[0])
    with pytest.raises(ValueError, match=re.escape("input a must have shape (4,), one number a sample, or (4, 5)")):
        stepper.step(x[0], inputs={"a": a.new_ones(T)})
    with pytest.raises(ValueError, match=re.escape("inputs must be the inputs of lstm (none). Got a.")):
        Stepper(Recurrent("lstm", I, H), B).step(x[0].float(), inputs={"a": a[0]})


def test_layers_are_pickled_copied_and_warmed_up(generator):
    layer, x, a = Recurrent(aging, I, H), draw(generator, T, B, I, dtype=torch.float32), torch.rand(T, B)
    inputs = {"age": a, "left": a}
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert other.cell is aging
        assert torch.equal(other(x, inputs=inputs)[0], layer(x, inputs=inputs)[0])
    assert warmup(layer, T, B, lengths=True).driver == "llvm"
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "rate_l0"]
    assert layer.weight_ih_l0.shape == (3 * H, I)


def test_a_call_that_came_before_is_given_its_own_inputs(generator):
    """What goes straight to compiled code the second time is no call with inputs."""
    layer, x = Recurrent(scored, I, H), draw(generator, T, B, I, dtype=torch.float32).detach()
    with torch.no_grad():
        ones, zeros = (layer(x, inputs={"a": x.new_full((T, B), a)})[0] for a in (1.0, 0.0))
        assert not zeros.any()
        assert torch.equal(layer(x, inputs={"a": x.new_ones(T, B)})[0], ones)
        with pytest.raises(ValueError, match=r"Got none for a\."):
            layer(x)

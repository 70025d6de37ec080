"""A cell's own parameters in a layer: gates without bias, one number for all units, and first values."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn, sigmoid, tanh
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, cell
from tests.support.layers import flat, gradients

T, B, I, H = 5, 2, 3, 4
DOUBLE = {"dtype": torch.float64}


def equations(x, R, h, *, tau, gain):
    f = sigmoid(x.f + R.f(h))
    n = tanh(gain * x.n + R.n(f * h) + x.c) * R.m(h)
    return h + (f * n - h) * sigmoid(tau)


own = cell(
    gates="f n c:x m:R", bias="f n:x", scalars="tau", parameter_init={"gain": 1.0, "tau": nn.init.zeros_}
)(equations)  # fmt: skip
whole = cell(gates="f n c:x m:R")(equations)


@cell(gates="a b", bias="")
def unbiased(x, R, h):
    return tanh(x.a + R.a(h)) * sigmoid(x.b + R.b(h))


def full_state(layer, driver="eager"):
    """The layer of the same equations with a bias for each gate and a number for each unit, of the same numbers."""
    full = Recurrent(
        whole, I, H, layer.num_layers, bidirectional=layer.bidirectional, driver=driver, bias=layer.bias, **DOUBLE
    )
    none, found = torch.zeros(H, **DOUBLE), {}
    for name, value in layer.state_dict().items():
        if name.startswith("bias_ih"):
            value = torch.cat([value, none])  # f and n; c has none
        elif name.startswith("bias_hh"):
            value = torch.cat([value, none, none])  # f; neither n nor m
        elif name.startswith("tau"):
            value = value.expand(H)
        found[name] = value
    full.load_state_dict(found)
    return full


def reduced(name, d):
    """A gradient of the full layer's in the form of the parameter it is of."""
    if name.startswith("bias_ih"):
        return d[: 2 * H]
    if name.startswith("bias_hh"):
        return d[:H]
    return d.sum().view(1) if name.startswith("tau") else d


def test_shapes_and_names():
    layer = Recurrent(own, I, H, 2, bidirectional=True)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters() if name.endswith("l1")}
    assert shapes == {
        "weight_ih_l1": (3 * H, 2 * H),
        "weight_hh_l1": (3 * H, H),
        "bias_ih_l1": (2 * H,),
        "bias_hh_l1": (H,),
        "tau_l1": (1,),
        "gain_l1": (H,),
    }
    assert (own.input_biases, own.recurrent_biases, own.scalars) == (("f", "n"), ("f",), ("tau",))
    assert [tuple(p.shape) for p in Recurrent(unbiased, I, H).parameters()] == [(2 * H, I), (2 * H, H), (0,), (0,)]
    without = Recurrent(own, I, H, bias=False)
    assert [tuple(p.shape) for p in without.parameters()] == [
        (3 * H, I),
        (3 * H, H),
        (1,),
        (H,),
    ]
    assert own.key == whole.key  # the same equations, however parameters lie


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("name", ["auto", "eager", "aten", "llvm", "script"])
def test_numbers_are_those_of_full_parameters(name, options):
    layer = Recurrent(own, I, H, driver=name, **DOUBLE, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand_like(parameter))
    full = full_state(layer)
    x = torch.randn(T, B, I, **DOUBLE, requires_grad=True)
    masks = {"lengths": torch.tensor([T, 2]), "resets": torch.rand(T, B) < 0.3}
    for given in ({}, masks):
        found, expected = layer(x, **given), full(x, **given)
        for one, two in zip(flat(found), flat(expected), strict=True):
            assert_close(one, two)
        ours, theirs = (gradients(r, [x, *each.parameters()]) for r, each in ((found, layer), (expected, full)))
        for key, one, two in zip(["x", *dict(layer.named_parameters())], ours, theirs, strict=True):
            assert_close(one, reduced(key, two))
    with torch.no_grad():
        assert_close(layer(x)[0], full(x)[0])


def test_gradients_against_finite_differences():
    layer = Recurrent(own, 2, 2, **DOUBLE)
    names = list(dict(layer.named_parameters()))
    values = [torch.randn_like(p).requires_grad_() for p in layer.parameters()]

    def call(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))[0]

    assert torch.autograd.gradcheck(call, (torch.randn(3, 1, 2, **DOUBLE, requires_grad=True), *values))


@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_kernels(name):
    layer = Recurrent(own, I, 16, driver=name)
    x = torch.randn(T, B, I)
    try:
        found = layer(x)
    except RuntimeError as refusal:
        pytest.skip(str(refusal))
    ours = gradients(found, list(layer.parameters()))
    layer.driver = "eager"
    expected = layer(x)
    assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert_close(ours, gradients(expected, list(layer.parameters())), rtol=1e-3, atol=1e-3)


def test_no_bias_at_all_is_as_without_bias():
    layer, plain = Recurrent(unbiased, I, H), Recurrent(unbiased, I, H, bias=False)
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if "bias" not in k})
    x = torch.randn(T, B, I)
    assert_close(layer(x), plain(x))


def test_steppers_copies_pickles_scripts_and_objects(tmp_path):
    layer = Recurrent(own, I, H).eval()
    x = torch.randn(T, B, I)
    expected = layer(x)[0].detach()
    stepper = gatefuse.Stepper(layer, B)
    assert_close(torch.stack([stepper.step(row).clone() for row in x]), expected)
    assert_close(copy.deepcopy(layer)(x)[0], expected)
    assert_close(pickle.loads(pickle.dumps(Recurrent(unbiased, I, H).state_dict()))["bias_ih_l0"], torch.zeros(0))
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = gatefuse.scripted(layer)
    assert_close(scripted(x)[0], expected)
    assert dict(scripted.named_parameters()).keys() == dict(layer.named_parameters()).keys()
    exported = gatefuse.export_object(layer, tmp_path / "own.o")
    assert exported.weight_bytes >= 4 * sum(p.numel() for p in layer.parameters() if p.dim() == 2)


def test_compiled_and_exported_by_torch():
    layer = Recurrent(own, I, H, **DOUBLE)
    x = torch.randn(T, B, I, **DOUBLE)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found, expected = compiled(x), layer(x)
    assert_close(found, expected)
    assert_close(gradients(found, list(layer.parameters())), gradients(expected, list(layer.parameters())))
    program = torch.export.export(layer, (x,))
    assert_close(program.module()(x)[0], expected[0])


def test_first_values():
    layer = Recurrent(own, I, H, 2, bidirectional=True)
    for name, parameter in layer.named_parameters():
        if name.startswith("gain"):
            assert torch.equal(parameter, torch.ones(H))
        elif name.startswith("tau"):
            assert torch.equal(parameter, torch.zeros(1))
        else:
            assert parameter.abs().max() <= H**-0.5
            assert parameter.unique().numel() == parameter.numel()
    with torch.no_grad():
        layer.gain_l0.fill_(5.0)
    layer.reset_parameters()
    assert torch.equal(layer.gain_l0, torch.ones(H))
    assert own.parameter_init == {"gain": 1.0, "tau": nn.init.zeros_}


def test_first_values_take_no_random_numbers_from_others():
    def unit(x, R, h, *, p):
        return tanh(x.a + R.a(h) + p)

    torch.manual_seed(0)
    drawn = Recurrent(cell(gates="a")(unit), I, H)
    torch.manual_seed(0)
    given = Recurrent(cell(gates="a", parameter_init={"p": 2})(unit), I, H)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        assert torch.equal(getattr(drawn, name), getattr(given, name))
    assert torch.equal(given.p_l0, torch.full((H,), 2.0))
    torch.manual_seed(0)
    spread = Recurrent(cell(gates="a", parameter_init={"p": lambda p: nn.init.uniform_(p, 3, 4)})(unit), I, H, 2)
    assert ((spread.p_l1 >= 3) & (spread.p_l1 < 4)).all()
    assert spread.p_l1.unique().numel() == H


def test_on_the_meta_device():
    layer = Recurrent(own, I, H, device="meta")
    assert layer.gain_l0.is_meta
    layer.to_empty(device="cpu").reset_parameters()
    assert torch.equal(layer.gain_l0, torch.ones(H))


def test_a_function_that_fills_nothing_is_refused():
    idle = cell(gates="a", parameter_init={"p": torch.ones_like})(lambda x, R, h, *, p: tanh(x.a + R.a(h) + p))
    text = (
        "parameter_init of p must fill the tensor that it is called with, as torch.nn.init.ones_ does. "
        "Got ones_like, after which it holds values that are no numbers."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Recurrent(idle, I, H)


def of(**options):
    return lambda: cell(gates="a c:x", **options)(lambda x, R, h, *, p, q: h)


WRONG = {
    "bias, no text": (of(bias=False),
        TypeError,
        'bias must be names of gates in one text, such as "i n:x". Got False.',
    ),
    "bias, no gate": (of(bias="a b"), ValueError, "bias must name gates of <lambda> (a, c). Got b."),
    "bias, twice": (of(bias="a:x a:R"), ValueError, "bias must name each gate of <lambda> once. Got a twice."),
    "bias, no side": (
        of(bias="c:R"), ValueError, "a gate's bias must be on a side that it has, as c:x. Got c:R for c:x.",
    ),
    "bias, another side": (
        of(bias="a:y"), ValueError, "a gate's bias must be on a side that it has, as c:x. Got a:y for a.",
    ),
    "scalars, no text": (
        of(scalars=["p"]),
        TypeError,
        "scalars must be names in one text, separated by blanks, such as \"tau\". Got ['p'].",
    ),
    "scalars, unknown": (of(scalars="p r"), ValueError, "scalars must name parameters of <lambda> (p, q). Got r."),
    "scalars, twice": (of(scalars="p p"),
        ValueError,
        "scalars must name each parameter of <lambda> once. Got p twice.",
    ),
    "scalars, a constant": (
        of(scalars="p", constants={"p": 1.0}), ValueError, "scalars must name parameters of <lambda> (q). Got p.",
    ),
    "first values, no dictionary": (
        of(parameter_init=1.0),
        TypeError,
        'parameter_init must be numbers or functions by name, such as {"p": 1.0}. Got 1.0.',
    ),
    "first values, unknown": (
        of(parameter_init={"r": 1.0}), ValueError, "parameter_init must name parameters of <lambda> (p, q). Got r.",
    ),
    "first values, text": (
        of(parameter_init={"p": "one"}),
        TypeError,
        "parameter_init of p must be a number, or a function that fills a tensor, such as torch.nn.init.ones_. "
        "Got 'one'.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "error", "text"), WRONG.values(), ids=WRONG.keys())
def test_wrong_declarations_are_refused(make, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        make()

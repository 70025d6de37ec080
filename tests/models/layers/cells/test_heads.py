"""Layers with heads against layers whose R has zeros where heads don't meet, in every driver."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn, tanh
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, Stepper, cell, cell_names, find_cell
from gatefuse.kernels.drivers import driver as driver_named
from gatefuse.kernels.task import Request
from gatefuse.models.layers.layout import block_diagonal
from tests.support.layers import flat, form, gradients

T, B, I, H, HEADS = 6, 4, 3, 6, 3
DOUBLE = {"dtype": torch.float64}


@cell(gates="f n c:x m:R", bias="f n:x", scalars="tau", init={"s": 0.5})
def mixed(x, R, h, s, *, tau, p):
    """One-sided gates, gates without bias, a number for all units and one for each."""
    f = torch.sigmoid(x.f + R.f(h))
    s = f * s + (1 - f) * tanh(p * x.n + R.n(f * h) + x.c)
    return s * torch.sigmoid(R.m(s)) * tau, s


MIXING = ("layer_norm_lstm", "layer_norm_gru")  # by means over all units
CELLS = (*[name for name in cell_names() if name not in MIXING and not find_cell(name).inputs], mixed)


@pytest.fixture(params=["apart", "at once"])
def apart(request, monkeypatch):
    """Each head by itself, or all at once with zeros between them, whichever sizes are taken for."""
    number = (lambda cell, call, wanted, heads: heads) if request.param == "apart" else lambda *_: 1
    monkeypatch.setattr("gatefuse.models.execution.heads.apart", number)
    return request.param


def whole(layer):
    """The layer of one R, with the heads' blocks on its diagonal."""
    options = {name: getattr(layer, name) for name in ("num_layers", "bias", "batch_first", "bidirectional")}
    found = Recurrent(layer.cell, layer.input_size, layer.hidden_size, driver="eager", **options, **DOUBLE)
    found.load_state_dict(
        {k: block_diagonal(v, layer.heads) if k.startswith("weight_hh") else v for k, v in layer.state_dict().items()}
    )
    return found


def blocks(d, heads):
    """Of a gradient of the whole R the part that the heads have."""
    h = d.shape[1] // heads
    of = d.view(-1, heads, h, heads, h)
    return torch.stack([of[:, k, :, k] for k in range(heads)], 1).reshape(-1, h)


def assert_same(layer, *given, **options):
    """In results and in gradients of all that is given and of all parameters."""
    full = whole(layer)
    leaves = [v for v in flat(given) if v.requires_grad]
    found, expected = layer(*given, **options), full(*given, **options)
    for one, two in zip(flat(found), flat(expected), strict=True):
        assert_close(one, two)
    ours = gradients(found, [*leaves, *layer.parameters()])
    theirs = gradients(expected, [*leaves, *full.parameters()])
    names = [f"given {k}" for k in range(len(leaves))] + [name for name, _ in layer.named_parameters()]
    for name, one, two in zip(names, ours, theirs, strict=True):
        two = blocks(two, layer.heads) if name.startswith("weight_hh") else two
        assert_close(one, two, msg=lambda text, name=name: f"{name}: {text}")


def given(layer, batched=True):
    rows = layer.num_layers * (1 + layer.bidirectional)
    shape = ((B, T, I) if layer.batch_first else (T, B, I)) if batched else (T, I)
    states = [torch.rand((rows, B, H) if batched else (rows, H), **DOUBLE) + 0.5 for _ in layer.cell.states]
    x = torch.randn(shape, **DOUBLE, requires_grad=True)
    return x, form([s.requires_grad_() for s in states])


def masks():
    return {"lengths": torch.tensor([T, 0, 2, 5]), "resets": torch.rand(T, B) < 0.3}


@pytest.mark.parametrize("each", CELLS, ids=lambda cell: getattr(cell, "name", cell))
def test_every_cell(each, apart):
    layer = Recurrent(each, I, H, **DOUBLE, heads=HEADS)
    M = len(layer.cell.recurrent_gates)
    assert layer.weight_hh_l0.shape == (M * H, H // HEADS)
    x, states = given(layer)
    assert_same(layer, x)
    assert_same(layer, x, states, **masks(), reset_state=states, all_states=True)


@pytest.mark.parametrize("name", ["eager", "aten", "llvm", "script", "vendor"])
@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True, "bias": False}],
    ids=["plain", "deep", "batch first"],
)
@pytest.mark.parametrize("each", ["lstm", mixed], ids=["lstm", "mixed"])
def test_every_driver(name, options, each, apart):
    if name == "vendor" and each is mixed:
        pytest.skip("torch has no loop for it")
    layer = Recurrent(each, I, H, driver=name, **DOUBLE, **options, heads=HEADS)
    x, states = given(layer)
    assert_same(layer, x)
    assert_same(layer, x, states)
    assert_same(layer, x, states, lengths=[T, 1, 2, 5])
    if name != "vendor" and not layer.batch_first:
        assert_same(layer, x, states, **masks(), all_states=True)
    x, states = given(layer, batched=False)
    assert_same(layer, x, states)
    with torch.no_grad():
        assert_close(layer(x, states), whole(layer)(x, states))


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "parts"), [(2, 2), (2, 1), (16, 1)])
@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_kernels(name, heads, parts, monkeypatch):
    monkeypatch.setattr("gatefuse.models.execution.heads.apart", lambda *_: parts)
    layer = Recurrent(mixed, I, 16, bidirectional=True, driver=name, heads=heads)
    if why := driver_named(name).refusal(Request(mixed, torch.device("cpu"), torch.float32, 3, 2, 8)):
        pytest.skip(why)
    x = torch.randn(3, 2, I)
    found = layer(x)
    ours = gradients(found, list(layer.parameters()))
    layer.driver = "eager"
    expected = layer(x)
    assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert_close(ours, gradients(expected, list(layer.parameters())), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("heads", [1, 2, H])
def test_any_number_of_heads(heads, apart):
    layer = Recurrent("gru_reset_first", I, H, 2, **DOUBLE, heads=heads)
    assert_same(layer, *given(layer))


@pytest.mark.parametrize("each", CELLS, ids=lambda cell: getattr(cell, "name", cell))
def test_a_head_for_each_unit(each):
    layer = Recurrent(each, I, H, **DOUBLE, heads=H)
    assert layer.weight_hh_l0.shape == (len(layer.cell.recurrent_gates) * H, 1)
    x, states = given(layer)
    if layer.cell.recurrent_gates:
        assert layer.plan(x).reason.startswith(f"for all {H} units, each a head of its own, by numbers in R's place, ")
    assert_same(layer, x)
    assert_same(layer, x, states, **masks(), reset_state=states, all_states=True)
    with torch.no_grad():
        assert_close(Stepper(layer, B)(x[0]), layer(x[:1])[0][0])


@pytest.mark.parametrize("name", ["eager", "aten", "llvm", "script"])
@pytest.mark.parametrize("options", [{"bidirectional": True, "num_layers": 2}, {"batch_first": True, "bias": False}])
def test_a_head_for_each_unit_in_every_driver(name, options):
    layer = Recurrent(mixed, I, H, driver=name, **DOUBLE, **options, heads=H)
    assert_same(layer, *given(layer))
    assert_same(layer, *given(layer), lengths=[T, 1, 2, 5], all_states=True)


def test_a_head_for_each_unit_is_an_independently_recurrent_network():
    """Whose cell has its weights as a parameter."""
    layer = Recurrent(cell(gates="a")(lambda x, R, h: torch.relu(x.a + R.a(h))), I, H, bias=False, **DOUBLE, heads=H)
    known = Recurrent("ind_rnn", I, H, bias=False, **DOUBLE)
    known.load_state_dict(
        {"weight_ih_l0": layer.weight_ih_l0, "weight_hh_l0": torch.empty(0, H), "u_l0": layer.weight_hh_l0.view(H)}
    )
    x = torch.randn(T, B, I, **DOUBLE)
    assert_close(layer(x), known(x))


@cell(gates="f n:x m:R", inputs="a age")
def aged(x, R, h):
    f = torch.sigmoid(x.f + R.f(h)) * x.a
    return f * torch.exp(-x.age) * h + (1 - f) * tanh(x.n + R.m(f * h))


@pytest.mark.parametrize("heads", [HEADS, H])
@pytest.mark.parametrize("name", ["eager", "aten", "llvm", "script"])
def test_inputs_beside_the_gates(name, heads, apart):
    layer = Recurrent(aged, I, H, 2, bidirectional=True, driver=name, **DOUBLE, heads=heads)
    x, states = given(layer)
    inputs = {"a": torch.rand(T, B, 1, **DOUBLE), "age": torch.rand(T, 1, H, **DOUBLE)}
    inputs = {key: value.requires_grad_() for key, value in inputs.items()}
    assert_same(layer, x, states, inputs=inputs)
    assert_same(layer, x, states, inputs=inputs, **masks())
    full = whole(layer)
    for key in inputs:
        ours, theirs = (gradients(each(x, inputs=inputs), [inputs[key]])[0] for each in (layer, full))
        assert_close(ours, theirs)
    if name == "llvm":
        layer = Recurrent(aged, I, H, **DOUBLE, heads=heads)
        step = {"a": torch.rand(B, 1, **DOUBLE), "age": torch.rand(B, H, **DOUBLE)}
        expected, _ = layer(x[:1], inputs={key: value[None] for key, value in step.items()})
        assert_close(Stepper(layer, B).step(x[0].detach(), step), expected[0].detach())


@pytest.mark.parametrize("heads", [HEADS, H])
def test_noise_is_drawn_as_in_one_layer_of_all_units(heads, apart):
    noisy = gatefuse.zoneout(gatefuse.recurrent_dropout(find_cell("lstm"), 0.25), h=0.5, c=0.25)
    layer = Recurrent(noisy, I, H, 2, **DOUBLE, heads=heads)
    full = whole(layer)
    x = torch.randn(T, B, I, **DOUBLE)
    torch.manual_seed(1)
    found = layer(x)[0]
    torch.manual_seed(1)
    assert_close(found, full(x)[0])
    assert_close(layer.eval()(x), full.eval()(x))
    dropping = Recurrent("gru", I, H, weight_dropout=0.5, **DOUBLE, heads=heads)
    torch.manual_seed(1)
    found = dropping(x)[0]
    torch.manual_seed(1)
    assert_close(dropping(x)[0], found)
    assert not torch.allclose(dropping(x)[0], found)


@pytest.mark.parametrize("each", ["slstm", mixed], ids=["slstm", "mixed"])
def test_parts_of_some_heads(each, monkeypatch):
    monkeypatch.setattr("gatefuse.models.execution.heads.apart", lambda *_: 2)
    layer = Recurrent(each, I, 2 * H, 2, bidirectional=True, **DOUBLE, heads=2 * HEADS)
    x = torch.randn(T, B, I, **DOUBLE, requires_grad=True)
    assert_same(layer, x)
    assert_same(layer, x, **masks(), all_states=True)


def test_packed_sequences(apart):
    layer = Recurrent("slstm", I, H, 2, bidirectional=True, **DOUBLE, heads=HEADS)
    x = torch.randn(T, B, I, **DOUBLE)
    packed = pack_padded_sequence(x, torch.tensor([2, T, 1, 5]), enforce_sorted=False)
    found, finals = layer(packed)
    expected, last = whole(layer)(packed)
    assert_close(found.data, expected.data)
    assert_close(finals, last)


def test_dropout_between_layers_draws_as_one_layer_of_all_units_does(apart):
    layer = Recurrent("lstm", I, H, 3, dropout=0.5, **DOUBLE, heads=HEADS)
    full = whole(layer)
    full.dropout = 0.5
    x = torch.randn(T, B, I, **DOUBLE)
    torch.manual_seed(1)
    found = layer(x)[0]
    torch.manual_seed(1)
    assert_close(found, full(x)[0])


def test_gradients_against_finite_differences(apart):
    layer = Recurrent("gru_reset_first", 2, 4, bidirectional=True, **DOUBLE, heads=2)
    names = list(dict(layer.named_parameters()))

    def call(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))[0]

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    x = torch.randn(2, 1, 2, **DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, *values))
    assert torch.autograd.gradgradcheck(call, (x, *values), fast_mode=True)


def test_plans_say_what_runs():
    layer = Recurrent("peephole_lstm", I, H, heads=HEADS)
    plan = layer.plan(torch.randn(T, B, I))
    assert plan.reason.startswith(f"for all {HEADS} heads at once, with zeros between them, ")
    assert str(plan).startswith(f"{plan.driver}: for all {HEADS} heads at once")
    large = Recurrent("peephole_lstm", I, 256, heads=4)
    assert large.plan(torch.randn(64, B, I)).reason.startswith("for each of 4 heads, ")
    assert large.plan(torch.randn(4, B, I)).reason.startswith("for all 4 heads at once, ")
    large.driver = "eager"
    assert large.plan(torch.randn(64, B, I)).reason.startswith("for all 4 heads at once, ")
    assert large.plan(torch.randn(64, 64, I)).reason.startswith("for each of 4 heads, ")
    small = Recurrent("peephole_lstm", I, 256, heads=32)
    assert small.plan(torch.randn(64, B, I)).reason.startswith("for each of 4 parts of 32 heads, ")
    many = Recurrent("peephole_lstm", I, 256, heads=256)
    assert many.plan(torch.randn(64, B, I)).reason.startswith("for all 256 units, each a head of its own, ")
    x = torch.randn(64, B, I)
    large.driver = "auto"
    with torch.no_grad():
        for layer in (large, small):
            assert_close(layer(x), whole(layer).float()(x))
    assert "heads=4" in repr(large)
    with pytest.raises(RuntimeError, match="driver vendor can't run this call"):
        Recurrent("peephole_lstm", I, H, driver="vendor", heads=HEADS)(torch.randn(T, B, I))


@pytest.mark.parametrize("heads", [HEADS, H])
def test_steppers_copies_pickles_scripts_and_objects(tmp_path, heads):
    layer = Recurrent("slstm", I, H, 2, heads=heads).eval()
    x = torch.randn(T, B, I)
    expected = layer(x)[0].detach()
    stepper = Stepper(layer, B)
    assert_close(torch.stack([stepper.step(row).clone() for row in x]), expected)
    assert_close(copy.deepcopy(layer)(x)[0], expected)
    assert_close(pickle.loads(pickle.dumps(layer))(x)[0], expected)
    with pytest.warns(DeprecationWarning, match="torch.jit.script"):
        scripted = gatefuse.scripted(layer)
    assert_close(scripted(x)[0], expected)
    exported = gatefuse.export_object(layer, tmp_path / "heads.o")
    recurrent = H * H if heads < H else H
    assert exported.weight_bytes >= 2 * 4 * 4 * recurrent


@pytest.mark.slow
@pytest.mark.parametrize("heads", [HEADS, H])
def test_compiled_exported_and_transformed_by_torch(heads, apart):
    fresh = cell(gates="i f z o")(find_cell("slstm").equations)  # of which nothing is known yet
    layer = Recurrent(fresh, I, H, 2, **DOUBLE, heads=heads)
    x = torch.randn(T, B, I, **DOUBLE)
    found = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
    expected = layer(x)
    assert_close(found, expected)
    assert_close(gradients(found, list(layer.parameters())), gradients(expected, list(layer.parameters())))
    assert_close(torch.export.export(layer, (x,)).module()(x)[0], expected[0])
    many = torch.stack([x, 2 * x])
    assert_close(torch.vmap(lambda x: layer(x)[0])(many), torch.stack([layer(x)[0], layer(2 * x)[0]]))


def test_under_autocast(apart):
    layer = Recurrent("peephole_lstm", I, H, 2, heads=HEADS)
    x = torch.randn(T, B, I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = layer(x)[0], whole(layer).float()(x)[0]
    assert found.dtype == expected.dtype
    assert_close(found.float(), expected.float(), rtol=0.05, atol=0.02)


def test_numbers_of_operations(monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr("gatefuse.models.execution.heads.apart", lambda cell, call, wanted, heads: heads)

    def count(heads):
        layer = Recurrent("peephole_lstm", I, 8, driver="eager", heads=heads)
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(T, B, I))
        return counter.get_total_flops()

    ahead = 2 * T * B * I * 4 * 8
    assert count(1) == ahead + 2 * T * B * 4 * 8 * 8
    assert count(4) == ahead + 2 * T * B * 4 * 8 * 2


def test_what_is_refused():
    for heads, error, text in (
        (4, ValueError, f"hidden_size must be a multiple of heads. Got hidden_size {H}, heads 4."),
        (0, ValueError, "heads must be greater than zero. Got 0."),
        (2.0, TypeError, "heads must be an int. Got float."),
        (True, TypeError, "heads must be an int. Got bool."),
    ):
        with pytest.raises(error, match=f"^{re.escape(text)}$"):
            Recurrent("lstm", I, H, heads=heads)

    @cell(gates="a")
    def mixing(x, R, h):
        return torch.softmax(x.a + R.a(h), -1)

    rule = "the cell of a layer with heads must mix no units but by R"
    x = torch.randn(T, B, I)
    for each, text in (
        (mixing, f"{rule}, as code that can be made of it shows. Got mixing: "),
        ("layer_norm_gru", rule),
    ):
        layer = Recurrent(each, I, H, heads=2).eval()
        for run in (layer, layer.plan, lambda x, layer=layer: Stepper(layer, B).step(x[0])):
            with pytest.raises(ValueError, match=text):
                run(x)
    text = f"{rule}. Got layer_norm_gru, which takes means or the largest of all."
    for refuse in (gatefuse.scripted, lambda layer: gatefuse.export_object(layer, "never.o")):
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            refuse(layer)


def test_states_of_another_number_of_heads_are_refused():
    state = Recurrent("lstm", I, H, heads=2).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for weight_hh_l0"):
        Recurrent("lstm", I, H, heads=3).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch for weight_hh_l0"):
        nn.LSTM(I, H).load_state_dict(state)

"""Recurrent against torch.nn's layers, and what else a layer must stand."""

import copy
import io
import pickle

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, find_cell
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.task import Request
from tests.support.layers import CLOSE, EXACT, TORCH, B, H, I, T, assert_same, flat, form, inputs, pair

SHAPES = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "two bidirectional": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False, "num_layers": 2},
    "batch first": {"batch_first": True, "bidirectional": True},
}


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("driver_name", EXACT)
@pytest.mark.parametrize("cell", TORCH)
def test_it_is_torchs_layer(cell, driver_name, options):
    theirs, ours = pair(cell, driver_name, **options)
    x, states = inputs(ours)
    assert_same(
        ours(x, form(states)),
        theirs(x, form(states)),
        [x, *states, *ours.parameters()],
        [x, *states, *theirs.parameters()],
    )
    assert_same(ours(x), theirs(x), [x, *ours.parameters()], [x, *theirs.parameters()])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("driver_name", EXACT)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_without_a_batch(cell, driver_name, batch_first):
    theirs, ours = pair(cell, driver_name, num_layers=2, batch_first=batch_first)
    x, states = inputs(ours, batched=False)
    leaves = [x, *states]
    assert_same(ours(x, form(states)), theirs(x, form(states)), leaves, leaves)
    assert ours(x)[0].shape == (T, H)


@pytest.mark.parametrize("cell", TORCH)
@pytest.mark.parametrize("bias", [True, False])
def test_same_seed_same_weights_and_names_as_torch(cell, bias):
    options = {"num_layers": 2, "bidirectional": True, "bias": bias}
    torch.manual_seed(7)
    theirs = TORCH[cell](I, H, **options).state_dict()
    torch.manual_seed(7)
    ours = Recurrent(cell, I, H, **options).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_per_unit_parameters_have_a_layers_names():
    layer = Recurrent("peephole_lstm", I, H, 2, bidirectional=True, bias=False)
    names = [name for name, _ in layer.named_parameters()]
    assert names[:5] == ["weight_ih_l0", "weight_hh_l0", "p_i_l0", "p_f_l0", "p_o_l0"]
    assert "p_o_l1_reverse" in names
    assert layer.p_i_l0.shape == (H,)
    assert all(parameter.abs().max() <= H**-0.5 for parameter in layer.parameters())


@pytest.mark.parametrize("driver_name", ["auto", "vendor"])
def test_dropout_is_torchs_for_the_same_seed(driver_name):
    theirs, ours = pair("lstm", driver_name, num_layers=3, dropout=0.5)
    x, _ = inputs(ours)
    torch.manual_seed(3)
    a = ours(x)
    torch.manual_seed(3)
    b = theirs(x)
    assert_same(a, b, [x, *ours.parameters()], [x, *theirs.parameters()])
    assert not torch.equal(ours(x)[0], ours(x)[0])


@pytest.mark.parametrize("driver_name", EXACT)
def test_dropout_acts_between_layers_in_training_alone(driver_name):
    theirs, ours = pair("gru", driver_name, num_layers=2, dropout=1.0)
    x, _ = inputs(ours)
    second = torch.nn.GRU(H, H, dtype=torch.float64)
    second.load_state_dict({n.replace("l1", "l0"): p for n, p in ours.state_dict().items() if "l1" in n})
    assert_close(ours(x)[0], second(torch.zeros(T, B, H, dtype=torch.float64))[0], **CLOSE)
    assert_close(ours.eval()(x)[0], theirs.eval()(x)[0], **CLOSE)


@gatefuse.cell(gates="a b", init={"v": 1.0})
def warm(x, R, u, v, *, p):
    a = x + R(u)
    return torch.tanh(a.a + p * v), torch.sigmoid(a.b) * v


def test_a_users_cell_begins_from_its_own_values():
    layer = Recurrent(warm, I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    given = torch.zeros(1, B, H, dtype=torch.float64), torch.ones(1, B, H, dtype=torch.float64)
    for a, b in zip(flat(layer(x)), flat(layer(x, given)), strict=True):
        assert torch.equal(a, b)
    assert layer.p_l0.shape == (H,)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("driver_name", DRIVERS)
def test_results_are_fresh(driver_name, batched):
    if why := driver(driver_name).refusal(Request(find_cell("lstm"), torch.device("cpu"), torch.float32, 1, 1, H)):
        pytest.skip(why)
    layer = Recurrent("lstm", I, H, driver=driver_name)
    for steps in (1, 3):
        x = torch.randn((steps, B, I) if batched else (steps, I))
        _, state = layer(x)
        _, (h, c) = layer(x, state)
        h.detach_()
        c.detach_().zero_()
        assert h.any()
        with torch.no_grad():
            output, (h, c) = layer(x)
            kept = h.clone()
            output.zero_()
            c.zero_()
        assert torch.equal(h, kept)


def test_states_with_gaps():
    for name in EXACT:
        layer = Recurrent("lstm", I, H, driver=name, dtype=torch.float64)
        states = torch.randn(B, 1, H, 2, dtype=torch.float64).transpose(0, 1)
        x = torch.randn(B, T, I, dtype=torch.float64).transpose(0, 1)
        gaps = layer(x, tuple(states.unbind(-1)))
        whole = layer(x.contiguous(), tuple(s.contiguous() for s in states.unbind(-1)))
        assert_close(gaps[0], whole[0], **CLOSE)


@pytest.mark.parametrize("driver_name", EXACT[::2])
@pytest.mark.parametrize(("steps", "samples"), [(0, 2), (3, 0)])
def test_nothing_to_do(driver_name, steps, samples):
    layer = Recurrent("lstm", I, H, 2, bidirectional=True, driver=driver_name)
    output, (h, c) = layer(torch.randn(steps, samples, I))
    assert output.shape == (steps, samples, 2 * H)
    assert h.shape == c.shape == (4, samples, H)


@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm", "slstm"])
def test_pickles_and_copies(cell):
    layer = Recurrent(cell, I, H, 2)
    x = torch.randn(T, B, I)
    saved = io.BytesIO()
    torch.save(layer, saved)
    saved.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(saved, weights_only=False)):
        assert other.cell is layer.cell
        assert torch.equal(other(x)[0], layer(x)[0])
        assert other.weight_ih_l0 is not layer.weight_ih_l0


def test_weights_may_be_replaced_and_parametrized():
    layer = Recurrent("lstm", I, H)
    x = torch.randn(T, B, I)
    before = layer(x)[0]

    class Half(torch.nn.Module):
        def forward(self, weight):
            return weight / 2

    torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Half())
    halved = layer(x)[0]
    assert not torch.equal(before, halved)
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight_hh_l0")
    assert torch.equal(layer(x)[0], halved)

    raw = layer.weight_ih_l0
    del layer.weight_ih_l0
    layer.weight_ih_l0 = raw.detach() * 0
    assert not torch.equal(layer(x)[0], halved)
    del layer.weight_ih_l0
    layer.weight_ih_l0 = raw  # now registered last
    assert torch.equal(layer(x)[0], halved)

    weights = {name: parameter.detach() * 0 for name, parameter in layer.named_parameters()}
    assert not torch.func.functional_call(layer, weights, (x,))[0].any()


@pytest.mark.parametrize("driver_name", ["vendor", "eager"])
def test_autocast_gives_what_torch_gives(driver_name):
    theirs, ours = torch.nn.LSTM(I, H), Recurrent("lstm", I, H, driver=driver_name)
    x = torch.randn(T, B, I)
    with torch.autocast("cpu", torch.bfloat16):
        for value in (x, x.bfloat16()):
            assert [v.dtype for v in flat(ours(value))] == [v.dtype for v in flat(theirs(value))]


def test_moving_keeps_it_whole():
    layer = Recurrent("gru", I, H).double()
    assert layer.weight_ih_l0.dtype == torch.float64
    layer.flatten_parameters()
    assert layer(torch.randn(T, B, I, dtype=torch.float64))[0].dtype == torch.float64
    meta = Recurrent("gru", I, H, device="meta")
    assert meta(torch.empty(T, B, I, device="meta"))[0].shape == (T, B, H)


def test_repr():
    layer = Recurrent("gru", I, H, 2, batch_first=True, dropout=0.5, driver="eager")
    assert repr(layer) == "Recurrent(gru, 3, 5, num_layers=2, batch_first=True, dropout=0.5, driver=eager)"


def test_the_plan_says_what_runs_and_why():
    x = torch.randn(T, B, I)
    plan = Recurrent("lstm", I, H).plan(x)
    assert plan.driver == "llvm"
    plan = Recurrent("lstm", I, H).plan(x, resets=torch.zeros(T, B, dtype=torch.bool))
    assert plan.driver != "vendor"
    assert plan.refused["vendor"] == "torch's own loop has no resets"
    packed = pack_padded_sequence(x, torch.full((B,), T))
    assert Recurrent("gru", I, H).plan(packed).driver == "llvm"
    assert Recurrent("lstm", I, H, driver="eager").plan(x).reason == "asked for"


def test_without_llvm_the_plan_is_torch_s_own_loop_where_it_can(without_llvm):
    x = torch.randn(T, B, I)
    plan = Recurrent("lstm", I, H).plan(x)
    assert (plan.driver, plan.refused["llvm"]) == ("vendor", "llvmlite is not installed")
    plan = Recurrent("lstm", I, H).plan(x, resets=torch.zeros(T, B, dtype=torch.bool))
    assert plan.driver == "eager"
    packed = pack_padded_sequence(x, torch.full((B,), T))
    assert Recurrent("gru", I, H).plan(packed).driver == "vendor"


@pytest.mark.parametrize("options", [{}, {"lengths": [T, 2, 0, 1]}, {"resets": torch.ones(T, B, dtype=torch.bool)}])
@pytest.mark.parametrize(
    ("cell", "driver_name"), [("lstm", "auto"), ("lstm", "vendor"), ("lstm", "eager"), ("peephole_lstm", "auto")]
)
def test_compiles_as_one_graph(cell, driver_name, options):
    if driver_name == "vendor" and "resets" in options:
        pytest.skip("torch's own loop has no resets")
    torch.compiler.reset()
    layer = Recurrent(cell, I, H, 2, driver=driver_name)
    options = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in options.items()}
    x = torch.randn(T, B, I)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert_close(compiled(x, **options)[0], layer(x, **options)[0])

"""The subclasses of torch.nn's layers and cells against their parents."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

import gatefuse
from tests.support.layers import assert_same, flat

T, B, I, H = 5, 3, 4, 6
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
LAYERS = ("LSTM", "GRU", "RNN")
CELLS = ("LSTMCell", "GRUCell", "RNNCell")
DRIVERS = ("auto", "vendor", "eager", "script", "aten", "llvm")
OPTIONS = {
    "plain": {},
    "all": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "no bias": {"num_layers": 2, "bias": False},
}


def pair(name, driver, **options):
    theirs = getattr(nn, name)(I, H, dtype=torch.float64, **options)
    ours = getattr(gatefuse, name)(I, H, dtype=torch.float64, driver=driver, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs, ours


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def first_states(layer, *shape):
    states = [draw(*shape) for _ in layer.cell.states]
    return states, tuple(states) if len(states) > 1 else states[0]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_parent(name, driver, options):
    theirs, ours = pair(name, driver, **options)
    assert isinstance(ours, getattr(nn, name))
    x = draw(B, T, I) if ours.batch_first else draw(T, B, I)
    states, hx = first_states(ours, ours.num_layers * (1 + ours.bidirectional), B, H)
    leaves = [x, *states]
    assert_same(ours(x, hx), theirs(x, hx), [*leaves, *ours.parameters()], [*leaves, *theirs.parameters()])
    assert_same(ours(x[0]), theirs(x[0]), [x, *ours.parameters()], [x, *theirs.parameters()])


@pytest.mark.parametrize("driver", DRIVERS)
def test_relu(driver):
    theirs, ours = pair("RNN", driver, nonlinearity="relu")
    x = draw(T, B, I)
    assert_same(ours(x), theirs(x), [x, *ours.parameters()], [x, *theirs.parameters()])


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", LAYERS)
def test_packed_sequences(name, driver):
    theirs, ours = pair(name, driver, bidirectional=True)
    x, lengths = draw(T, B, I), torch.tensor([2, 5, 3])
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    (ours_output, ours_state), (output, state) = ours(packed), theirs(packed)
    assert_close(ours_output.data, output.data, **CLOSE)
    for a, b in zip(flat(ours_state), flat(state), strict=True):
        assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("driver", ["auto", "vendor", "eager"])
@pytest.mark.parametrize("name", LAYERS)
def test_lengths(name, driver):
    theirs, ours = pair(name, driver, num_layers=2)
    x, lengths = draw(T, B, I), torch.tensor([2, 4, 3])
    output, state = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
    expected = pad_packed_sequence(output, total_length=T)[0], state
    assert_same(ours(x, lengths=lengths), expected, [x, *ours.parameters()], [x, *theirs.parameters()])
    assert ours(x, lengths=[0, 1, 5])[0].shape == (T, B, H)


@pytest.mark.parametrize("driver", ["auto", "eager"])
@pytest.mark.parametrize("name", LAYERS)
def test_resets_and_all_states(name, driver):
    theirs, ours = pair(name, driver)
    x = draw(T, B, I)
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    expected = torch.cat([theirs(x[:2])[0], theirs(x[2:])[0]])
    assert_close(ours(x, resets=resets)[0], expected, **CLOSE)
    sequences, state = ours(x, all_states=True)
    assert len(sequences) == len(ours.cell.states)
    for sequence, final in zip(sequences, flat(state), strict=True):
        assert_close(sequence[-1], final[0], **CLOSE)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_its_parent(name, bias, driver):
    theirs, ours = pair(name, driver, bias=bias)
    assert isinstance(ours, getattr(nn, name))
    x = draw(B, I)
    states, hx = first_states(ours, B, H)
    leaves = [x, *states]
    assert_same(ours(x, hx), theirs(x, hx), [*leaves, *ours.parameters()], [*leaves, *theirs.parameters()])
    assert_same(ours(x), theirs(x), [x, ours.weight_ih], [x, theirs.weight_ih])
    x = draw(I)
    states, hx = first_states(ours, H)
    assert_same(ours(x, hx), theirs(x, hx), [x, *states], [x, *states])
    for state in flat(ours(x, hx)):
        assert state.shape == (H,)


LARGE = {"LSTMCell": (16, 128), "GRUCell": (16, 160), "RNNCell": (16, 256)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CELLS)
def test_a_large_step_that_isn_t_trained_is_compiled_by_auto_alone(name, dtype, monkeypatch):
    B, H = LARGE[name]
    theirs = getattr(nn, name)(I, H, dtype=dtype)
    auto, vendor = (getattr(gatefuse, name)(I, H, dtype=dtype, driver=driver) for driver in ("auto", "vendor"))
    for layer in (auto, vendor):
        layer.load_state_dict(theirs.state_dict())
    x, h = torch.randn(B, I, dtype=dtype), torch.randn(B, H, dtype=dtype)
    hx = (h, h + 1) if name == "LSTMCell" else h
    ran, run = [], getattr(nn, name).forward
    monkeypatch.setattr(getattr(nn, name), "forward", lambda self, *given: ran.append(self) or run(self, *given))
    for given in ((x,), (x, hx)):
        trained = flat(theirs(*given))
        assert_close(flat(auto(*given)), trained, rtol=0, atol=0)
        with torch.no_grad():
            expected = flat(theirs(*given))
            assert_close(flat(vendor(*given)), expected, rtol=0, atol=0)
            assert ran[-2:] == [theirs, vendor]
            assert_close(flat(auto(*given)), expected)
            assert ran[-2:] == [theirs, vendor]
            with torch.autocast("cpu", torch.bfloat16):
                assert [v.dtype for v in flat(auto(*given))] == [v.dtype for v in flat(theirs(*given))]


@pytest.mark.parametrize("name", CELLS)
def test_without_llvm_a_large_step_is_torch_s(without_llvm, name):
    B, H = LARGE[name]
    theirs, ours = getattr(nn, name)(I, H), getattr(gatefuse, name)(I, H)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(B, I)
    with torch.no_grad():
        assert_close(flat(ours(x)), flat(theirs(x)), rtol=0, atol=0)


def test_a_relu_cell():
    theirs, ours = pair("RNNCell", "eager", nonlinearity="relu")
    x = draw(B, I)
    assert_same(ours(x), theirs(x), [x, ours.weight_ih], [x, theirs.weight_ih])


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_positional_arguments_are_the_parents(name):
    arguments = (I, H, True, "relu") if name == "RNNCell" else (I, H, False) if name in CELLS else None
    arguments = arguments or ((I, H, 2, "relu", False, True) if name == "RNN" else (I, H, 2, False, True))
    theirs, ours = getattr(nn, name)(*arguments), getattr(gatefuse, name)(*arguments)
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_copies_pickles_and_repr(name):
    layer = getattr(gatefuse, name)(I, H, driver="eager")
    x = torch.randn(B, I) if name in CELLS else torch.randn(T, B, I)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.driver == "eager"
        assert torch.equal(flat(other(x))[0], flat(layer(x))[0])
    assert repr(layer) == f"{name}(4, 6, driver=eager)"


@pytest.mark.parametrize("driver", ["auto", "vendor"])
@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_an_instance_of_the_parent_can_become_one(name, driver):
    layer = getattr(nn, name)(I, H)
    x = torch.randn(B, I) if name in CELLS else torch.randn(T, B, I)
    before = layer(x)
    layer.__class__ = getattr(gatefuse, name)
    assert layer.driver == "auto"
    layer.driver = driver
    assert_close(flat(layer(x)), flat(before))
    assert torch.equal(flat(layer(x))[0], flat(before)[0]) or (driver == "auto" and name in LAYERS)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projections_are_torchs_unless_it_has_no_loop():
    torch.manual_seed(0)
    ours = gatefuse.LSTM(I, H, proj_size=2)
    torch.manual_seed(0)
    theirs = nn.LSTM(I, H, proj_size=2)
    x = torch.randn(T, B, I)
    assert torch.equal(ours(x)[0], theirs(x)[0])
    assert ours.plan(x).driver == "vendor"
    assert ours.plan(x, resets=torch.zeros(T, B, dtype=torch.bool)).driver != "vendor"
    other = gatefuse.LSTM(I, H, proj_size=2, driver="eager")
    other.load_state_dict(ours.state_dict())
    assert other.plan(x).driver == "eager"
    assert_close(other(x), ours(x))
    lengths = torch.randint(1, T + 1, (B,))
    assert_close(other(x, lengths=lengths), ours(x, lengths=lengths))


@pytest.mark.parametrize("driver", ["auto", "vendor"])
def test_dropout_is_the_parents(driver):
    theirs, ours = pair("LSTM", driver, num_layers=2, dropout=0.5)
    x = draw(T, B, I)
    torch.manual_seed(1)
    a = ours(x)
    torch.manual_seed(1)
    assert_same(a, theirs(x), [x], [x])


def test_weights_replaced_before_every_call():
    ours = gatefuse.LSTM(I, H, driver="eager", dtype=torch.float64)
    theirs = copy.deepcopy(ours)
    theirs.driver = "vendor"
    for layer in (ours, theirs):
        raw = layer.weight_hh_l0
        del layer.weight_hh_l0
        layer.weight_hh_l0 = raw.detach() / 2
    x = draw(T, B, I)
    assert_close(ours(x)[0], theirs(x)[0], **CLOSE)


def test_the_plan_says_what_runs(monkeypatch):
    layer = gatefuse.GRU(I, H)
    x = torch.randn(T, B, I)
    assert layer.plan(x).driver == "llvm"
    monkeypatch.setattr(nn.GRU, "forward", lambda *_: pytest.fail("compiled code is to run."))
    layer(x)
    assert (
        layer.plan(x, resets=torch.zeros(T, B, dtype=torch.bool)).refused["vendor"] == "torch's own loop has no resets"
    )
    assert gatefuse.LSTMCell(I, H, driver="eager").plan(torch.randn(B, I)).driver == "eager"


@pytest.mark.parametrize("name", LAYERS)
def test_additions_are_keywords_only(name):
    parameters = inspect.signature(getattr(gatefuse, name).forward).parameters
    assert list(parameters)[:3] == ["self", "input", "hx"]
    assert all(parameters[p].kind == inspect.Parameter.KEYWORD_ONLY for p in ("lengths", "resets", "all_states"))


def test_without_llvm_torch_nn_runs(without_llvm, monkeypatch):
    layer, theirs = gatefuse.GRU(I, H), nn.GRU(I, H)
    theirs.load_state_dict(layer.state_dict())
    x, seen, run = torch.randn(T, B, I), [], nn.GRU.forward
    expected = theirs(x)
    assert layer.plan(x).driver == "vendor"
    monkeypatch.setattr(nn.GRU, "forward", lambda *given: seen.append(1) or run(*given))
    assert all(torch.equal(a, b) for a, b in zip(layer(x), expected, strict=True))
    assert seen == [1]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("steps", "runs"), [(1, "lstm_cell"), (2, "lstm")])
def test_single_steps_of_an_lstm_run_by_torch_s_function_for_a_step(
    without_llvm, monkeypatch, steps, runs, batch_first
):
    """Without llvm: oneDNN lays the weights out anew in each call."""
    seen = []
    for place, name in ((torch, "lstm_cell"), (torch._VF, "lstm"), (torch, "lstm")):
        function = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, name=name, f=function: seen.append(name) or f(*a))
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first, "bias": not batch_first}
    layer, oracle = gatefuse.LSTM(I, H, **options), nn.LSTM(I, H, **options)
    oracle.load_state_dict(layer.state_dict())
    x = torch.randn(*((B, steps) if batch_first else (steps, B)), I)
    found = flat(layer(x))
    assert set(seen) == {runs}
    assert_close(found, flat(oracle(x)))
    assert layer.plan(x).driver == "vendor"

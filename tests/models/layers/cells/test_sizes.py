"""States and gates of other sizes than H, against plain loops over the equations with their true sizes."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

from gatefuse import Recurrent, Stepper
from gatefuse.kernels.drivers import driver as driver_named
from gatefuse.kernels.task import Request
from tests.support.layers import flat, form, gradients
from tests.support.sized_cells import CELLS, UNITS, by_hand

T, B, I, H = 6, 4, 3, 5
DOUBLE = {"dtype": torch.float64}
FORMS = {
    "one layer": {},
    "deep": {"num_layers": 2, "bidirectional": True},
    "batch first": {"num_layers": 2, "batch_first": True, "bias": False},
}
DRIVERS = ("auto", "eager", "script", "aten", "llvm")
each_cell = pytest.mark.parametrize("name", CELLS)


def made(name, **options):
    torch.manual_seed(0)
    return Recurrent(CELLS[name], I, H, sizes=UNITS[name], **({**DOUBLE, **options}))


def units(layer, name):
    """By the cell's declaration, not by what the layer makes of it."""
    sizes = {each: size for size, names in layer.cell.declaration.sizes for each in names}
    return UNITS[layer.cell.name][sizes[name]] if name in sizes else H


def given(layer, seed=0, steps=T, samples=B):
    """x (T, B, I), states and inputs beside the gates, as leaves."""
    g = torch.Generator().manual_seed(seed)
    rows = layer.num_layers * (1 + layer.bidirectional)

    def leaf(*shape):
        return torch.rand(shape, generator=g, **DOUBLE).requires_grad_()

    x = leaf(steps, samples, I)
    states = [leaf(rows, samples, units(layer, state)) for state in layer.cell.states]
    return x, states, {name: leaf(steps, samples, units(layer, name)) for name in layer.cell.inputs}


def as_layer(layer, value):
    return value.transpose(0, 1) if layer.batch_first else value


def called(layer, x, states, inputs, **options):
    inputs = {name: as_layer(layer, a) for name, a in inputs.items()} if inputs else None
    if "resets" in options:
        options["resets"] = as_layer(layer, options["resets"])
    sequences, finals = layer(as_layer(layer, x), form(states), inputs=inputs, all_states=True, **options)
    return tuple([as_layer(layer, s) for s in sequences]), finals


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
@each_cell
def test_as_by_hand(name, options, driver):
    layer = made(name, driver=driver, **options)
    x, states, inputs = given(layer)
    leaves = [x, *states, *inputs.values(), *layer.parameters()]
    found, expected = called(layer, x, states, inputs), by_hand(layer, x, states, inputs=inputs)
    assert_close(flat(found), flat(expected))
    assert_close(gradients(found, leaves), gradients(expected, leaves))
    output, _ = layer(as_layer(layer, x), inputs={n: as_layer(layer, a) for n, a in inputs.items()} or None)
    first = [torch.full_like(s, value) for s, value in zip(states, layer.cell.init, strict=True)]
    assert_close(as_layer(layer, output), by_hand(layer, x, first, inputs=inputs)[0][0])


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("masks", ["lengths", "resets", "lengths resets"])
@each_cell
def test_lengths_and_resets(name, masks, driver):
    layer = made(name, driver=driver, bidirectional=True, num_layers=2, batch_first=True)
    x, states, inputs = given(layer)
    _, fresh, _ = given(layer, seed=1)
    options = {"lengths": torch.tensor([T, 0, 2, 5])} if "lengths" in masks else {}
    leaves = [x, *states, *inputs.values(), *layer.parameters()]
    if "resets" in masks:
        options["resets"] = torch.rand(T, B, generator=torch.Generator().manual_seed(2)) < 0.4
        leaves += fresh
    again = {"reset_state": form(fresh)} if "resets" in masks else {}
    found = called(layer, x, states, inputs, **options, **again)
    expected = by_hand(layer, x, states, **options, fresh=fresh, inputs=inputs)
    assert_close(flat(found), flat(expected))
    assert_close(gradients(found, leaves), gradients(expected, leaves))
    first = [torch.full_like(s, value) for s, value in zip(states, layer.cell.init, strict=True)]
    found = called(layer, x, states, inputs, **options)
    assert_close(flat(found), flat(by_hand(layer, x, states, **options, fresh=first, inputs=inputs)))


@each_cell
def test_kernels(name):
    for driver in ("step", "block", "grid"):
        layer = made(name, driver=driver, dtype=torch.float32)
        most = max(H, *UNITS[name].values())
        if why := driver_named(driver).refusal(Request(layer.cell, torch.device("cpu"), torch.float32, 3, 2, most)):
            pytest.skip(why)
        x, states, inputs = given(layer, steps=3, samples=2)
        single = [v.detach().float().requires_grad_() for v in (x, *states, *inputs.values())]
        leaves = [*single, *layer.parameters()]
        S = len(states)
        beside = dict(zip(inputs, single[1 + S :], strict=True))
        found = called(layer, single[0], single[1 : 1 + S], beside)
        expected = by_hand(layer, single[0], single[1 : 1 + S], inputs=beside)
        assert_close(flat(found), flat(expected), rtol=1e-4, atol=1e-5)
        assert_close(gradients(found, leaves), gradients(expected, leaves), rtol=1e-3, atol=1e-4)


@each_cell
def test_sizes_that_are_all_hidden_size(name):
    layer = Recurrent(CELLS[name], I, H, sizes=dict.fromkeys(UNITS[name], H), **DOUBLE)
    assert {p.shape[0] % H for n, p in layer.named_parameters() if n != "k_l0"} == {0}
    x = torch.randn(T, B, I, **DOUBLE)
    output, _ = layer(x, inputs={n: torch.rand(T, B, **DOUBLE) for n in CELLS[name].inputs} or None)
    assert output.shape == (T, B, H)


def test_parameters_have_no_spare_numbers():
    layer = Recurrent(CELLS["scrn"], I, H, num_layers=2, bidirectional=True, sizes={"slow": 3})
    shapes = {name: tuple(p.shape) for name, p in layer.state_dict().items() if name.endswith(("_l0", "_l1"))}
    assert shapes == {
        "weight_ih_l0": (3 + H, I),
        "weight_hh_l0": (H, H),
        "weight_hh_slow_l0": (H, 3),
        "bias_ih_l0": (H,),
        "bias_hh_l0": (2 * H,),
        "weight_ih_l1": (3 + H, 2 * H),
        "weight_hh_l1": (H, H),
        "weight_hh_slow_l1": (H, 3),
        "bias_ih_l1": (H,),
        "bias_hh_l1": (2 * H,),
    }
    assert repr(layer) == "Recurrent(scrn, 3, 5, num_layers=2, bidirectional=True, sizes={'slow': 3})"
    assert repr(layer.cell) == "<cell scrn: gates b:x a p:R, states h s, slow s b>"
    deep = Recurrent(CELLS["projected_lstm"], I, H, num_layers=2, sizes={"projected": 2})
    assert deep.output_size == 2
    assert tuple(deep.weight_ih_l1.shape) == (4 * H, 2)
    assert tuple(deep.weight_hh_l0.shape) == (2, H)
    assert tuple(deep.weight_hh_projected_l0.shape) == (4 * H, 2)


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm"])
def test_as_torchs_projection(driver):
    """Projected within its equations, an LSTM is torch.nn's with proj_size."""
    theirs = nn.LSTM(I, H, proj_size=2, **DOUBLE)
    ours = Recurrent(CELLS["projected_lstm"], I, H, sizes={"projected": 2}, driver=driver, **DOUBLE)
    weights = theirs.state_dict()
    names = {"weight_hh_l0": "weight_hr_l0", "weight_hh_projected_l0": "weight_hh_l0"}
    ours.load_state_dict({name: weights[names.get(name, name)] for name in ours.state_dict()})
    x = torch.randn(T, B, I, **DOUBLE)
    state = torch.randn(1, B, 2, **DOUBLE), torch.randn(1, B, H, **DOUBLE)
    assert_close(ours(x, state), theirs(x, state))


@pytest.mark.parametrize("driver", ["eager", "script", "aten", "llvm"])
def test_one_unit_overflows(driver):
    """The last real unit, whose copies the spare ones are, and another one: results and gradients are the same kind."""
    for unit in (0, 2):
        layer = made("scrn", driver=driver)
        x, states, _ = given(layer)
        with torch.no_grad():
            states[1][..., unit] = torch.inf
        found, expected = layer(x, form(states), all_states=True), by_hand(layer, x, states)
        assert not expected[0][0].isnan().any()
        assert_close(flat(found), flat(expected), equal_nan=True)
        leaves = [x, *states, *layer.parameters()]
        ours, theirs = (gradients(result[0][0], leaves) for result in (found, expected))
        assert_close(ours, theirs, equal_nan=True)


def test_packed():
    layer = made("scrn", num_layers=2, bidirectional=True)
    x, states, _ = given(layer)
    lengths = torch.tensor([2, T, 1, 5])
    packed, last = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), form(states))
    output, finals = layer(x, form(states), lengths=lengths)
    assert_close(nn.utils.rnn.pad_packed_sequence(packed)[0], output)
    assert_close(last, finals)
    x, _, inputs = given(layer := made("timed"))
    lengths = torch.tensor([2, T, 1, 5])
    own = {n: pack_padded_sequence(a, lengths, enforce_sorted=False) for n, a in inputs.items()}
    packed, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), inputs=own)
    expected, _ = layer(x, lengths=lengths, inputs=inputs)
    assert_close(nn.utils.rnn.pad_packed_sequence(packed)[0], expected)


def test_without_a_batch():
    layer = made("legendre")
    x, states, _ = given(layer)
    expected, last = layer(x, form(states))
    output, alone = layer(x[:, 1], form([s[:, 1] for s in states]))
    assert_close(output, expected[:, 1])
    assert_close(alone, tuple([s[:, 1] for s in last]))


@each_cell
def test_copies(name):
    layer = made(name, num_layers=2)
    x, states, inputs = given(layer)
    expected = called(layer, x, states, inputs)
    loaded = made(name, num_layers=2)
    with torch.no_grad():
        for p in loaded.parameters():
            p.zero_()
    loaded.load_state_dict(layer.state_dict())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert other._sized == layer._sized
        assert_close(called(other, x, states, inputs), expected)
    single = copy.deepcopy(layer).float()
    found = called(single, x.float(), [s.float() for s in states], {n: a.float() for n, a in inputs.items()})
    assert_close(flat(found), [v.float() for v in flat(expected)], rtol=1e-4, atol=1e-5)


@each_cell
def test_stepper(name):
    layer = made(name, num_layers=2)
    x, states, inputs = given(layer)
    expected, last = called(layer, x, states, inputs)
    stepper = Stepper(layer, B, form(states))
    for t in range(T):
        output = stepper.step(x[t].detach(), {n: a[t].detach() for n, a in inputs.items()} or None)
        assert_close(output, expected[0][t].detach())
    assert_close(flat(stepper.state), [s.detach() for s in flat(last)])
    stepper.reset(torch.tensor([True, False, False, True]))
    first = [torch.full_like(s, v) for s, v in zip(states, layer.cell.init, strict=True)]
    for own, s, f in zip(flat(stepper.state), flat(last), first, strict=True):
        assert_close(own[:, 0], f[:, 0].detach())
        assert_close(own[:, 1], s[:, 1].detach())
    stepper.reset(state=form(states))
    assert_close(flat(stepper.state), [s.detach() for s in states])

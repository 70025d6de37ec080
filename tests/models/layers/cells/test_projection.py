"""proj_size for cells whose output is used in x + R(h) alone, against torch.nn.LSTM and against a plain loop."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import LSTM, Recurrent, Stepper, find_cell
from gatefuse.kernels.drivers import driver as driver_named
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.recurrence import Recurrence
from gatefuse.kernels.task import Request
from gatefuse.models.execution.projection import gains
from tests.support.layers import flat, form, gradients

T, B, I, H, P = 6, 4, 3, 5, 2
DOUBLE = {"dtype": torch.float64}
CELLS = ("lstm", "slstm", "peephole_lstm", "elman")


def by_hand(layer, x, states, lengths=None, resets=None, fresh=None):
    """One layer and direction: a plain loop over the cell's equations, in which the output is projected."""
    cell = layer.cell
    w_ih, w_hh, b_ih, b_hh, w_hr = (getattr(layer, f"{name}_l0") for name in (*NAMES, "weight_hr"))
    own = {name: getattr(layer, f"{name}_l0") for name in cell.parameters}

    # the equations hand it their output of H numbers, of which the first P are the projection's
    R = Recurrence(cell.recurrent_gates, torch.cat([w_hh, w_hh.new_zeros(len(w_hh), H - P)], 1), b_hh, cell.gates)
    now = [s[0] for s in states]
    outputs, others = [], []
    for t in range(len(x)):
        if resets is not None:
            again = resets[t] if lengths is None else resets[t] & (t < lengths)
            now = [torch.where(again[:, None], f[0], s) for f, s in zip(fresh, now, strict=True)]
        wide = torch.cat([now[0], torch.zeros(len(now[0]), H - P, **DOUBLE)], 1)
        gates = Gates(cell.input_gates, nn.functional.linear(x[t], w_ih, b_ih))
        new = cell.equations(gates, R, wide, *now[1:], **own)
        new = list(new) if isinstance(new, tuple) else [new]
        new[0] = new[0] @ w_hr.T
        if lengths is not None:
            new = [torch.where((t < lengths)[:, None], n, s) for n, s in zip(new, now, strict=True)]
        now = new
        live = torch.ones(B, 1, dtype=torch.bool) if lengths is None else (t < lengths)[:, None]
        outputs.append(torch.where(live, now[0], 0.0))
        others.append([torch.where(live, s, 0.0) for s in now[1:]])
    sequences = torch.stack(outputs), *[torch.stack(s) for s in zip(*others, strict=True)]
    return sequences, tuple([s[None] for s in now])


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def given(layer, batched=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    rows = layer.num_layers * (1 + layer.bidirectional)
    sizes = [P, *[H] * (len(layer.cell.states) - 1)]
    states = [torch.rand(*((rows, B) if batched else (rows,)), size, generator=g, **DOUBLE) + 0.5 for size in sizes]
    shape = ((B, T, I) if layer.batch_first else (T, B, I)) if batched else (T, I)
    x = torch.randn(shape, generator=g, **DOUBLE, requires_grad=True)
    return x, [s.requires_grad_() for s in states]


@pytest.mark.parametrize("name", ["auto", "eager", "aten", "llvm", "script", "vendor"])
@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True, "bias": False, "num_layers": 2}],
    ids=["plain", "deep", "batch first"],
)
def test_as_torchs(name, options):
    theirs = nn.LSTM(I, H, proj_size=P, **options, **DOUBLE)
    for ours in (Recurrent("lstm", I, H, proj_size=P, driver=name, **options, **DOUBLE), LSTM(
        I, H, proj_size=P, driver=name, **options, **DOUBLE
    )):  # fmt: skip
        ours.load_state_dict(theirs.state_dict())
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for batched in (True, False):
            x, states = given(ours, batched)
            for state in (None, form(states)):
                found, expected = ours(x, state), theirs(x, state)
                assert_close(flat(found), flat(expected))
                leaves = [x] if state is None else [x, *states]
                mine = gradients(found, [*leaves, *ours.parameters()])
                assert_close(mine, gradients(expected, [*leaves, *theirs.parameters()]))
        x, states = given(ours)
        lengths = torch.tensor([2, T, 1, 5])
        packed = pack_padded_sequence(x, lengths, batch_first=ours.batch_first, enforce_sorted=False)
        found, expected = ours(packed, form(states)), theirs(packed, form(states))
        assert_close(found[0].data, expected[0].data)
        assert_close(found[1], expected[1])
        again, last = ours(x, form(states), lengths=lengths)
        padded, _ = nn.utils.rnn.pad_packed_sequence(expected[0], ours.batch_first)
        assert_close(again, padded)
        assert_close(last, expected[1])


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True}], ids=str)
def test_auto_takes_compiled_code_where_it_is_sooner(options, states):
    theirs = nn.LSTM(I, H, proj_size=P, **options, **DOUBLE)
    ours = copy.deepcopy(theirs)
    assert len(gatefuse.accelerate(ours).changed) == 1
    x = torch.randn(B, 20, I, **DOUBLE) if ours.batch_first else torch.randn(20, B, I, **DOUBLE)
    hx = tuple(given(ours)[1]) if states else None
    assert ours.plan(x, hx).driver == "llvm"
    found, expected = ours(x, hx), theirs(x, hx)
    assert_close(flat(found), flat(expected))
    assert_close(gradients(found, list(ours.parameters())), gradients(expected, list(theirs.parameters())))
    with torch.autocast("cpu", torch.bfloat16):
        assert [v.dtype for v in flat(ours(x, hx))] == [v.dtype for v in flat(theirs(x, hx))]
    few = x[:, :6] if ours.batch_first else x[:6]
    assert ours.plan(few, hx).driver == "vendor"
    assert_close(flat(ours(few, hx)), flat(theirs(few, hx)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("T", "B", "H", "P", "found"),
    [(16, 1, 128, 1, True), (15, 1, 128, 64, False), (35, 1, 256, 64, False), (35, 8, 512, 128, True),
     (35, 8, 512, 64, False), (35, 64, 1024, 512, False)],
)  # fmt: skip
def test_where_a_projection_gains(T, B, H, P, found):
    assert gains(T, B, H, P) is found


@pytest.mark.parametrize("name", ["eager", "aten", "llvm", "script"])
@pytest.mark.parametrize("each", CELLS)
def test_every_cell(each, name):
    layer = Recurrent(each, I, H, proj_size=P, driver=name, **DOUBLE)
    x, states = given(layer)
    _, fresh = given(layer, seed=1)
    lengths, resets = torch.tensor([T, 0, 2, 5]), torch.rand(T, B) < 0.4
    leaves = [x, *states, *layer.parameters()]
    for masks in ({}, {"lengths": lengths}, {"resets": resets}, {"lengths": lengths, "resets": resets}):
        options = masks | ({"reset_state": form(fresh)} if "resets" in masks else {})
        found = layer(x, form(states), **options, all_states=True)
        expected = by_hand(layer, x, states, **masks, fresh=fresh)
        assert_close(flat(found), flat(expected))
        theirs = gradients(expected, [*leaves, *(fresh if "resets" in masks else ())])
        assert_close(gradients(found, [*leaves, *(fresh if "resets" in masks else ())]), theirs)
    zeros = [torch.zeros_like(s) for s in states]
    found = layer(x, resets=resets)
    assert_close(found[0], by_hand(layer, x, zeros, resets=resets, fresh=zeros)[0][0])


def test_both_directions_with_lengths_and_resets():
    """Backwards as forwards over what is turned over."""
    layer = Recurrent("lstm", I, H, proj_size=P, bidirectional=True, **DOUBLE)
    x, states = given(layer)
    resets = torch.rand(T, B) < 0.4
    options = {"resets": resets, "reset_state": form(given(layer, seed=1)[1])}
    output, finals = layer(x, form(states), **options)
    back = Recurrent("lstm", I, H, proj_size=P, **DOUBLE)
    back.load_state_dict({k.removesuffix("_reverse"): v for k, v in layer.state_dict().items() if "reverse" in k})
    turned = torch.cat([resets[1:], torch.zeros(1, B, dtype=torch.bool)]).flip(0)
    fresh = tuple([s[1:] for s in options["reset_state"]])
    expected, last = back(x.flip(0), tuple([s[1:] for s in states]), resets=turned, reset_state=fresh)
    assert_close(output[..., P:], expected.flip(0))
    assert_close([s[1:] for s in finals], list(last))
    lengths = torch.tensor([T, 3, 1, 5])
    output, _ = layer(x, form(states), lengths=lengths)
    for b, n in enumerate(lengths.tolist()):
        alone, _ = layer(x[:n, b], form([s[:, b] for s in states]))
        assert_close(output[:n, b], alone)


@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_kernels(name):
    layer = Recurrent("lstm", I, 16, proj_size=4, driver=name, bidirectional=True)
    if why := driver_named(name).refusal(Request(layer.cell, torch.device("cpu"), torch.float32, 3, 2, 16)):
        pytest.skip(why)
    x, states = torch.randn(3, 2, I), (torch.randn(2, 2, 4), torch.randn(2, 2, 16))
    found = layer(x, states)
    ours = gradients(found, list(layer.parameters()))
    layer.driver = "eager"
    expected = layer(x, states)
    assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert_close(ours, gradients(expected, list(layer.parameters())), rtol=1e-3, atol=1e-3)


def test_gradients_against_finite_differences():
    layer = Recurrent("slstm", 2, 3, proj_size=2, **DOUBLE)
    names = list(dict(layer.named_parameters()))

    def call(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))[0]

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(call, (torch.randn(3, 1, 2, **DOUBLE, requires_grad=True), *values))


def test_dropout_and_plans():
    layer = Recurrent("lstm", I, H, 3, proj_size=P, dropout=0.5, **DOUBLE)
    theirs = nn.LSTM(I, H, 3, proj_size=P, dropout=0.5, **DOUBLE)
    theirs.load_state_dict(layer.state_dict())
    x, _ = given(layer)
    torch.manual_seed(1)
    found = layer(x)[0]
    torch.manual_seed(1)
    assert_close(found, theirs(x)[0])
    assert layer.plan(x).reason.startswith("with R's weights times the projection's, ")
    assert "proj_size=2" in repr(layer)
    assert LSTM(I, H, proj_size=P, driver="eager").plan(torch.randn(T, B, I)).driver == "eager"


def test_compiled_and_exported_by_torch():
    layer = Recurrent("peephole_lstm", I, H, 2, proj_size=P, **DOUBLE)
    x, _ = given(layer)
    found, expected = torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x)
    assert_close(found, expected)
    assert_close(gradients(found, list(layer.parameters())), gradients(expected, list(layer.parameters())))
    x = x.detach()
    assert_close(torch.export.export(layer, (x,)).module()(x)[0], expected[0])


def test_under_autocast():
    layer = Recurrent("peephole_lstm", I, H, 2, proj_size=P)
    x = torch.randn(T, B, I)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)[0]
        within, _ = layer(x, lengths=[T, 0, 2, 5])
    expected = layer(x)[0]
    assert found.dtype == within.dtype == torch.bfloat16
    assert_close(found.float(), expected, rtol=0.1, atol=0.05)
    assert_close(within[:, 0], found[:, 0], rtol=0.1, atol=0.05)


def test_what_is_refused(tmp_path):
    for options, error, text in (
        ({"proj_size": H}, ValueError, f"proj_size must be at least 0 and below hidden_size {H}. Got {H}."),
        ({"proj_size": -1}, ValueError, f"proj_size must be at least 0 and below hidden_size {H}. Got -1."),
        ({"proj_size": 2.0}, TypeError, "proj_size must be an int. Got float."),
        (
            {"proj_size": 2, "heads": 5},
            ValueError,
            "a layer with proj_size must have one head. Got proj_size 2, heads 5.",
        ),
    ):
        with pytest.raises(error, match=f"^{re.escape(text)}$"):
            Recurrent("lstm", I, H, **options)
    rule = "the cell of a layer with proj_size must use its output in x + R(h) alone"
    for name in ("gru", "gru_reset_first", "minimal_gated_unit", "ind_rnn", "layer_norm_lstm"):
        layer = Recurrent(name, I, H, proj_size=P)
        for run in (layer, layer.plan):
            with pytest.raises(ValueError, match=f"^{re.escape(rule)}. Got {name}.$"):
                run(torch.randn(T, B, I))
    dropped = gatefuse.recurrent_dropout(find_cell("lstm"), 0.5)
    layer = Recurrent(dropped, I, H, proj_size=P)
    with pytest.raises(ValueError, match=re.escape(rule)):
        layer(torch.randn(T, B, I))
    layer = Recurrent("lstm", I, H, proj_size=P)
    with pytest.raises(RuntimeError, match=re.escape(f"state h must have shape (1, {B}, {P}). Got (1, {B}, {H}).")):
        layer(torch.randn(T, B, I), (torch.zeros(1, B, H), torch.zeros(1, B, H)))
    for refuse in (lambda: Stepper(layer, B), lambda: gatefuse.export_object(layer, tmp_path / "never.o")):
        with pytest.raises(ValueError, match=r"must have no projection\. Got"):
            refuse()

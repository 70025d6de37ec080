"""Noise of cells and dropped recurrent weights in layers, against plain loops that draw the same."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from torch import sigmoid, tanh
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from gatefuse import Recurrent, Stepper, export_object, recurrent_dropout, scripted, warmup, zoneout
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.task import Request
from tests.support.cells_with_inputs import scored
from tests.support.kernels.compiling import compiling

T, B, I, H = 6, 4, 3, 5
DOUBLE = {"dtype": torch.float64}
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
EXACT = ("auto", "eager", "script", "aten", "llvm")
ALL = {
    "zoneout": lambda: zoneout("lstm", h=0.3, c=0.5),
    "recurrent dropout": lambda: recurrent_dropout("gru_reset_first", 0.4),
    "in each step": lambda: recurrent_dropout("lstm", 0.4, each_step=True),
    "both": lambda: zoneout(recurrent_dropout("gru", 0.25), h=0.2),
}
cells = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


def draw(*shape):
    return torch.rand(*shape, **DOUBLE, requires_grad=True)


def lstm(layer, x, mask_h, mask_c, dropped, suffix="_l0"):
    """Krueger et al.'s equations 4 and 5, with Gal and Ghahramani's mask of what is multiplied; masks are (T, B, H)."""
    W, U, b, d = (getattr(layer, f"{n}{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = c = torch.zeros(x.shape[1], H, dtype=x.dtype)
    outputs = []
    for x_t, m_h, m_c, m in zip(x, mask_h, mask_c, dropped, strict=True):
        i, f, g, o = (x_t @ W.T + b + (m * h) @ U.T + d).chunk(4, 1)
        new_c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        new_h = sigmoid(o) * tanh(new_c)  # of the new memory, also where that is not kept
        h, c = m_h * h + (1 - m_h) * new_h, m_c * c + (1 - m_c) * new_c
        outputs.append(h)
    return torch.stack(outputs)


def mask(p, *shape):
    return (torch.rand(*shape) < p).double()


def constant(value):
    return torch.full((T, B, H), value, **DOUBLE)


def assert_same(ours, theirs, leaves):
    assert_close(ours, theirs, **CLOSE)
    found = torch.autograd.grad(ours.square().sum(), leaves)
    assert_close(found, torch.autograd.grad(theirs.square().sum(), leaves), **CLOSE)


@pytest.mark.parametrize("driver_name", EXACT)
def test_zoneout_is_the_papers(driver_name):
    layer, x = Recurrent(zoneout("lstm", h=0.3, c=0.5), I, H, driver=driver_name, **DOUBLE), draw(T, B, I)
    torch.manual_seed(1)
    output, _ = layer(x)
    torch.manual_seed(1)
    m_h, m_c = mask(0.3, 1, T, B, H)[0], mask(0.5, 1, T, B, H)[0]
    assert_same(output, lstm(layer, x, m_h, m_c, constant(1.0)), [x, *layer.parameters()])
    expected = lstm(layer, x, constant(0.3), constant(0.5), constant(1.0))
    assert_same(layer.eval()(x)[0], expected, [x, *layer.parameters()])


@pytest.mark.parametrize("each_step", [False, True])
@pytest.mark.parametrize("driver_name", EXACT)
def test_recurrent_dropout_is_the_papers(driver_name, each_step):
    cell = recurrent_dropout("lstm", 0.4, each_step=each_step)
    layer, x = Recurrent(cell, I, H, num_layers=2, driver=driver_name, **DOUBLE), draw(T, B, I)
    torch.manual_seed(1)
    output, _ = layer(x)
    torch.manual_seed(1)
    masks = mask(0.6, 2, T if each_step else 1, B, H).expand(2, T, B, H) / 0.6
    none = constant(0.0)
    first = lstm(layer, x, none, none, masks[0])
    assert_same(output, lstm(layer, first, none, none, masks[1], "_l1"), [x, *layer.parameters()])
    plain = Recurrent("lstm", I, H, num_layers=2, **DOUBLE)
    plain.load_state_dict(layer.state_dict())
    assert_close(layer.eval()(x), plain(x), **CLOSE)


@cells
def test_every_driver_draws_the_same(make):
    layer = Recurrent(make(), I, H, 2, bidirectional=True, dropout=0.2, weight_dropout=0.3, **DOUBLE)
    x, resets = draw(T, B, I), torch.rand(T, B) < 0.2
    for options in ({}, {"lengths": torch.tensor([6, 2, 0, 4]), "resets": resets, "all_states": True}):
        found = []
        for layer.driver in ("eager", "script", "aten", "llvm"):
            torch.manual_seed(5)
            output, states = layer(x, **options)
            total = sum(s.sum() for s in (output if isinstance(output, tuple) else (output,)))
            found.append((output, states, torch.autograd.grad(total, [x, *layer.parameters()])))
        for other in found[1:]:
            assert_close(other, found[0], **CLOSE)


@cells
@pytest.mark.parametrize("driver_name", ["step", "block", "grid"])
def test_kernels_draw_the_same(make, driver_name):
    cell = make()
    if why := driver(driver_name).refusal(Request(cell.trained, torch.device("cpu"), torch.float32, T, B, H)):
        pytest.skip(why)
    layer, x = Recurrent(cell, I, H, bidirectional=True, driver=driver_name), torch.rand(T, B, I, requires_grad=True)
    found = []
    for layer.driver in (driver_name, "eager"):
        torch.manual_seed(5)
        output, _ = layer(x)
        found.append((output, *torch.autograd.grad(output.sum(), [x, *layer.parameters()])))
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@cells
def test_each_call_layer_and_direction_draws_anew(make):
    layer, x = Recurrent(make(), H, H, 2, bidirectional=True, **DOUBLE), draw(T, B, H)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    one = copy.deepcopy(layer)
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if name.endswith("_reverse"):
                parameter.copy_(dict(one.named_parameters())[name.removesuffix("_reverse")])
    ahead, _ = one(x)[0].chunk(2, 2)
    back = one(x.flip(0))[0].flip(0).chunk(2, 2)[1]
    assert not torch.equal(ahead, back)


@cells
def test_training_mode_decides_and_not_gradients(make):
    layer, x = Recurrent(make(), I, H), torch.rand(T, B, I)
    with torch.no_grad():
        layer.eval()
        expected = [layer(x)[0] for _ in range(3)]  # straight to compiled code, from the second time on
        assert torch.equal(expected[0], expected[1])
        assert torch.equal(expected[0], expected[2])
        layer.train()
        assert not torch.equal(layer(x)[0], expected[0])
        assert torch.equal(layer.eval()(x)[0], expected[0])


@cells
def test_a_plan_draws_nothing(make):
    layer, x = Recurrent(make(), I, H, weight_dropout=0.5), torch.rand(T, B, I)
    before = torch.get_rng_state()
    assert layer.plan(x).driver == "llvm"
    warmup(layer, T, B)
    assert torch.equal(torch.get_rng_state(), before)


@cells
def test_a_checkpoint_draws_the_same_again(make):
    layer, x = Recurrent(make(), I, H, 2, dropout=0.2, weight_dropout=0.2, **DOUBLE), draw(T, B, I)
    found = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        torch.manual_seed(3)
        found.append(torch.autograd.grad(run(x)[0].sum(), [x, *layer.parameters()]))
    assert_close(found[0], found[1], **CLOSE)


def test_torch_compile_draws_the_same():
    torch.compiler.reset()
    layer, x = Recurrent(ALL["both"](), I, H, 2, weight_dropout=0.2, dropout=0.3, **DOUBLE), draw(T, B, I)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found = []
    for run in (layer, compiled):
        torch.manual_seed(3)
        output, _ = run(x)
        found.append((output, *torch.autograd.grad(output.sum(), [x, *layer.parameters()])))
    assert_close(found[0], found[1], **CLOSE)
    layer.eval()
    assert_close(compiled(x), layer(x), **CLOSE)
    torch.compiler.reset()


def test_noise_and_inputs_that_are_given():
    layer, x, a = Recurrent(recurrent_dropout(scored, 0.3), I, H, **DOUBLE), draw(T, B, I), draw(T, B)
    found = []
    for layer.driver in ("eager", "llvm"):
        torch.manual_seed(3)
        found.append(layer(x, inputs={"a": a})[0])
    assert_close(found[0], found[1], **CLOSE)
    with pytest.raises(ValueError, match=re.escape("inputs must be the inputs of recurrent_dropout_scored (a).")):
        layer(x, inputs={"a": a, "recurrent_dropout": a})


def test_lengths_and_packed_samples_keep_their_states():
    layer, x = Recurrent(zoneout("gru", h=0.5), I, H, **DOUBLE), draw(T, B, I)
    lengths = torch.tensor([6, 2, 0, 4])
    output, h_n = layer(x, lengths=lengths)
    for b, n in enumerate(lengths.tolist()):
        assert not output[n:, b].any()
        assert_close(h_n[0, b], output[n - 1, b] if n else torch.zeros(H, **DOUBLE))
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 3, 2, 1]))
    assert torch.equal(layer.eval()(packed)[1], layer(x, lengths=torch.tensor([6, 3, 2, 1]))[1])


def test_weight_dropout_drops_recurrent_weights():
    layer, x = Recurrent("lstm", I, H, 2, bidirectional=True, weight_dropout=0.4, **DOUBLE), draw(T, B, I)
    for layer.driver in ("auto", "eager", "vendor"):
        torch.manual_seed(2)
        output, _ = layer(x)
        torch.manual_seed(2)
        names = [f"weight_hh_l{k}{way}" for k in range(2) for way in ("", "_reverse")]
        dropped = {name: getattr(layer, name) * mask(0.6, 4 * H, H) / 0.6 for name in names}
        plain = Recurrent("lstm", I, H, 2, bidirectional=True, **DOUBLE)
        expected, _ = torch.func.functional_call(plain, {**dict(layer.named_parameters()), **dropped}, (x,))
        assert_same(output, expected, [x, *layer.parameters()])
    plain.load_state_dict(layer.state_dict())
    assert_close(layer.eval()(x), plain(x), **CLOSE)
    assert "weight_dropout=0.4" in repr(layer)


def test_state_dicts_and_pickles_are_the_cells():
    layer, plain = Recurrent(ALL["both"](), I, H, 2), Recurrent("gru", I, H, 2)
    layer.load_state_dict(plain.state_dict())
    other = pickle.loads(pickle.dumps(layer))
    assert (other.cell.name, other.cell.noise) == (layer.cell.name, layer.cell.noise)
    x = torch.rand(T, B, I)
    found = []
    for each in (layer, other, copy.deepcopy(layer)):
        torch.manual_seed(4)
        found.append(each(x)[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_steps_one_by_one_draw_nothing():
    layer, x = Recurrent(ALL["zoneout"](), I, H), torch.rand(T, B, I)
    stepper = Stepper(layer, B)
    assert "compiled" in repr(stepper)
    steps = torch.stack([stepper.step(x_t).clone() for x_t in x])
    assert_close(steps, layer.eval()(x)[0])


def test_gradients_of_equations_with_noise():
    layer, x = Recurrent(ALL["both"](), 2, 3, **DOUBLE), torch.rand(3, 2, 2, **DOUBLE, requires_grad=True)

    def run(x):
        torch.manual_seed(0)
        return layer(x)[0]

    for layer.driver in ("eager", "aten", "llvm"):
        assert torch.autograd.gradcheck(run, x)
        assert torch.autograd.gradgradcheck(run, x)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_files_are_of_eval_mode(tmp_path):
    x = torch.rand(T, B, I)
    for layer in (Recurrent(ALL["zoneout"](), I, H), Recurrent("lstm", I, H, weight_dropout=0.5)):
        name = layer.cell.name
        with pytest.raises(ValueError, match=f"a layer must be in eval mode to be scripted.*Got one of {name} in"):
            scripted(layer)
        with pytest.raises(ValueError, match=f"must be in eval mode.*since C draws nothing. Got Recurrent of {name}"):
            export_object(layer, tmp_path / "layer.o")
        assert not list(tmp_path.iterdir())
        assert_close(scripted(layer.eval())(x)[0], layer(x)[0])
        export_object(layer, tmp_path / "layer.o")
        for file in tmp_path.iterdir():
            file.unlink()


PROGRAM = """
import sys, torch
from gatefuse import zoneout
kept = zoneout("lstm", h=0.25, c=0.5)
x = torch.load(sys.argv[2])
torch.save(torch.export.load(sys.argv[1]).module()(x), sys.argv[3])
"""


@pytest.mark.slow
def test_an_exported_program_runs_where_the_cell_was_made(tmp_path):
    layer, x = Recurrent(zoneout("lstm", h=0.25, c=0.5), I, H).eval(), torch.rand(T, B, I)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "layer.pt2")
    torch.save(x, tmp_path / "x.pt")
    compiling(PROGRAM, tmp_path / "cache", tmp_path / "layer.pt2", tmp_path / "x.pt", tmp_path / "y.pt")
    assert_close(torch.load(tmp_path / "y.pt"), layer(x))

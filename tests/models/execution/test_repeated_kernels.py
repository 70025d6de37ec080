"""Calls of a form that came before, by drivers with kernels: what their launches depend on is asked for in each."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from gatefuse import LSTM, Recurrent, cell, find_cell
from gatefuse.kernels.loops import inputs
from gatefuse.kernels.loops.triton import block, grid, step_launches
from gatefuse.kernels.runtime import settings
from gatefuse.kernels.runtime.tf32 import rounded
from gatefuse.kernels.tiling.overrides import trying
from gatefuse.models.execution.repeated import repeated
from gatefuse.models.layers.base import Stack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOOPS = {"step": step_launches, "block": block, "grid": grid}
pytestmark = pytest.mark.parametrize("driver", LOOPS)


@pytest.fixture(autouse=True)
def nothing_known():
    """No form of a call that another test has made."""
    for name in ("lstm", "gru"):
        find_cell(name).current().made.pop(repeated, None)


@pytest.fixture
def prepared(monkeypatch):
    """Layers that went the whole way, in order."""
    found, whole = [], Stack._prepare
    monkeypatch.setattr(Stack, "_prepare", lambda layer, *given: found.append(layer) or whole(layer, *given))
    return found


@pytest.fixture
def launched(monkeypatch, driver):
    """Arguments and constants of launches, which are not done."""
    found = []
    for loop in LOOPS.values():
        monkeypatch.setattr(loop, "launch", lambda kernel, grid, *given, **constants: found.append((given, constants)))
    return found


def layer_of(driver, cell="lstm", H=5, **options):
    return Recurrent(cell, 3, H, driver=driver, device=DEVICE, **options)


def draw(*shape, **options):
    return torch.randn(*shape, device=DEVICE, **options)


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def check(layer, x, state=None):
    """A call's results and gradients are those of the equations."""
    plain = copy.deepcopy(layer)
    plain.driver = "eager"
    found = []
    for each in (layer, plain):
        leaf = x.clone().requires_grad_()
        output, finals = each(leaf, state)
        wanted = [leaf, *(p for p in each.parameters() if p.requires_grad)]
        loss = output.square().sum() + sum(s.square().sum() for s in as_tuple(finals))
        found.append([output, *as_tuple(finals), *torch.autograd.grad(loss, wanted)])
        with torch.no_grad():
            assert_close(each(x, state)[0], output, atol=1e-5, rtol=1e-4)
    assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_what_changes_in_a_layer_is_seen(prepared, driver):
    torch.manual_seed(0)
    layer, x = layer_of(driver, num_layers=2), draw(3, 2, 3)
    check(layer, x)
    check(layer, x)
    assert prepared.count(layer) == 2  # once for results alone, once with gradients
    with torch.no_grad():
        layer.weight_hh_l0.mul_(0.5)
    check(layer, x)
    layer.weight_hh_l1 = torch.nn.Parameter(draw(20, 5))
    check(layer, x)
    layer.weight_ih_l0.data = draw(3, 20).t()  # with gaps
    check(layer, x)
    layer.bias_ih_l0.requires_grad_(False)
    check(layer, x)
    check(layer, x.transpose(0, 1).contiguous().transpose(0, 1))
    assert prepared.count(layer) == 4
    layer.batch_first = True
    check(layer, x)
    check(layer, x)
    assert prepared.count(layer) == 6
    layer.weight_hh_l0.data = draw(20, 6)
    with pytest.raises(ValueError, match=r"weight_hh must have shape \(20, 5\)\. Got \(20, 6\)\."):
        layer(x)
    layer.weight_hh_l0.data = draw(20, 5).half()
    with pytest.raises(RuntimeError, match=r"weight_hh must be torch\.float32 on .*, as x is"):
        layer(x)


def test_states_of_any_form_and_changes_in_place(prepared, driver):
    torch.manual_seed(0)
    layer, x, wide = layer_of(driver), draw(3, 2, 3), draw(1, 2, 10)
    states = draw(1, 2, 5), draw(1, 2, 5)
    for state in (None, states, None, states, (wide[..., ::2], wide[..., 1::2])):
        check(layer, x, state)
    output, (h, c) = layer(x, states)
    expected = torch.autograd.grad(output.sum() + h.sum() + c.sum(), layer.weight_hh_l0, retain_graph=True)
    held, kept = c.detach().clone(), h * h  # the graph keeps h
    c.detach_().add_(1)
    assert_close(h.detach(), output[-1:].detach())
    output.detach().mul_(2)
    assert_close(c - 1, held)
    found = torch.autograd.grad(kept.sum() / 2, layer.weight_hh_l0, retain_graph=True)
    assert not found[0].equal(expected[0])
    h.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def test_first_states_lie_where_x_does_whatever_the_default_device(driver):
    layer, x = layer_of(driver), draw(2, 2, 3)
    with torch.device("meta"):
        for _ in range(2):
            check(layer, x)
    check(layer, x)


def test_spare_units_in_each_call(driver):
    torch.manual_seed(0)
    layer, x = layer_of(driver, H=66), draw(2, 2, 3)
    for _ in range(2):
        check(layer, x)


def test_equations_that_change_are_other_ones(driver):
    namespace = {"rate": 0.5, "torch": torch}
    exec("def leaky(x, R, h):\n    return rate * h + torch.tanh(x.n + R.n(h))", namespace)
    layer = layer_of(driver, _of(namespace["leaky"]))
    x = draw(3, 2, 3)
    for value in (0.5, float("0.5"), 0.25, 0.5):
        namespace["rate"] = value
        check(layer, x)
        check(layer, x)
    del namespace["rate"]
    with pytest.raises((RuntimeError, NameError), match="rate"):
        layer(x)


def _of(equations):
    # a cell of a function that no file has: its module is that of this one
    equations.__module__ = __name__
    return cell(gates="n")(equations)


def test_whoever_looks_at_operators_sees_them(prepared, driver):
    layer, x = layer_of(driver), draw(3, 2, 3)
    with torch.no_grad():
        expected = layer(x)[0]
        layer(x)
        assert len(prepared) == 1
        batched = torch.func.vmap(lambda one: layer(one)[0])(torch.stack([x, x]))
        assert_close(batched[1], expected, atol=1e-5, rtol=1e-4)

        class Notes(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                names.append(str(function))
                return function(*args, **(kwargs or {}))

        names = []
        with Notes():
            assert_close(layer(x)[0], expected)
        assert "gatefuse.sequence_forward.default" in names

        class Told(torch.Tensor):
            pass

        assert_close(layer(x, (torch.zeros(1, 2, 5, device=DEVICE).as_subclass(Told),) * 2)[0], expected)
        assert len(prepared) == 4
        layer.weight_hh_l0 = torch.nn.Parameter(layer.weight_hh_l0.detach().as_subclass(Told))
        assert_close(torch.Tensor(layer(x)[0]), expected)
    assert len(prepared) == 5


def test_hooks_and_parametrizations_run(driver):
    layer, x, seen = LSTM(3, 5, driver=driver, device=DEVICE), draw(2, 2, 3), []
    layer.register_forward_hook(lambda *_: seen.append("hook"))

    class Doubled(torch.nn.Module):
        def forward(self, weight):
            seen.append("weight")
            return weight * 2

    with torch.no_grad():
        layer(x)
        before = layer(x)[0]
        assert seen == ["hook"] * 2
        torch.nn.utils.parametrize.register_parametrization(layer, "weight_hh_l0", Doubled())
        del seen[:]
        assert not layer(x)[0].equal(before)
    assert seen == ["weight", "hook"]


def test_a_loop_s_debug_mode_is_asked_for_in_each_call(monkeypatch, launched, driver):
    layer, x, filled = layer_of(driver), draw(3, 2, 3), []
    whole = torch.Tensor.new_full
    monkeypatch.setattr(torch.Tensor, "new_full", lambda *given: filled.append(given[1:]) or whole(*given))
    with torch.no_grad():
        for value in ("0", "1", "0", "1"):
            monkeypatch.setenv("GATEFUSE_DEBUG", value)
            del filled[:]
            layer(x)
            assert (((3, 2, 5), torch.nan) in filled) == (value == "1")  # the output's buffer
    names = {"launch"} if DEVICE == "cpu" else {"ptx", "delayed"}
    assert driver != "grid" or {constants["FORM"] for _, constants in launched} == names


def test_what_is_tried_reaches_a_call_that_came_before(launched, driver):
    if driver == "step":
        pytest.skip("nothing of its kernels may be tried")
    layer, x = layer_of(driver), draw(2, 2, 3)

    def warps():
        del launched[:]
        torch.autograd.grad(layer(x)[0].sum(), layer.weight_hh_l0)
        return launched[0][1]["num_warps"], launched[-1][1]["num_warps"]

    usual = [warps() for _ in range(3)][-1]
    with trying(driver, "forward", {"warps": 16}):
        assert warps() == (16, usual[1])
    with trying(driver, "backward", {"warps": 16}):
        assert warps() == (usual[0], 16)
    assert warps() == usual


def test_tf32_is_asked_for_in_each_pass(monkeypatch, prepared, launched, driver):
    """And weights that a forward has rounded are what its backward multiplies, where that is in tf32 too."""
    if driver == "step":
        pytest.skip("torch multiplies for it")
    layer, x = layer_of(driver, "gru"), draw(2, 2, 3)
    now = SimpleNamespace(fp32_precision="tf32")
    monkeypatch.setattr(settings, "_cudnn_rnn", now)
    monkeypatch.setattr(inputs, "interpreted", lambda: False)
    weight = layer.weight_hh_l0.detach()
    factors = {"tf32": rounded(weight), "ieee": weight}
    assert not torch.equal(factors["tf32"], weight)

    def multiplied(way):
        given, constants = launched[0 if way == "forward" else -1]
        assert constants["PRECISION"] == now.fp32_precision
        return next(v for v in given if getattr(v, "shape", None) == weight.shape)

    for k, (first, then) in enumerate((("tf32", "tf32"), ("tf32", "tf32"), ("ieee", "ieee"), ("tf32", "ieee"))):
        del launched[:]
        now.fp32_precision = first
        output, _ = layer(x)
        assert torch.equal(multiplied("forward"), factors[first])
        now.fp32_precision = then
        torch.autograd.grad(output.sum(), layer.weight_hh_l0)
        assert torch.equal(multiplied("backward"), factors[then])
        if k == 1:
            ahead = launched[0][0], launched[-1][0]
            same = [next(v for v in each if getattr(v, "shape", None) == weight.shape) for each in ahead]
            assert same[0].data_ptr() == same[1].data_ptr()
    assert len(prepared) == 2


def test_algorithms_and_grad_mode_are_part_of_the_form(prepared, driver):
    layer, x = layer_of(driver), draw(2, 2, 3)
    for deterministic in (True, False, True, False):
        torch.use_deterministic_algorithms(deterministic)
        assert layer(x)[0].requires_grad
        with torch.no_grad():
            assert not layer(x)[0].requires_grad
        with torch.inference_mode():
            assert layer(x)[0].is_inference()
    assert len(prepared) == 4
    frozen = layer_of(driver, H=6).requires_grad_(False)
    for _ in range(2):
        assert not frozen(x)[0].requires_grad
    assert prepared.count(frozen) == 1
    states = (torch.zeros(1, 2, 6, device=DEVICE, requires_grad=True),) * 2
    assert frozen(x, states)[0].requires_grad
    assert not frozen(x)[0].requires_grad
    assert frozen(x.clone().requires_grad_())[0].requires_grad
    assert not frozen(x)[0].requires_grad
    frozen.bias_hh_l0.requires_grad_()
    assert frozen(x)[0].requires_grad

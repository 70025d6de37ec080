"""Layers trained by compiled code, all at once: gradients beside those of the equations."""

import pytest
import torch
from torch import nn

import gatefuse
from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.codegen.llvm.products.ahead import AS_THEY_LIE, LAID_OUT_NOW
from gatefuse.kernels.loops.llvm import training as llvm_training
from gatefuse.kernels.runtime.threads import available
from tests.support.layers import beside
from tests.support.made_up_cells import ALL

T, B, I, H = 6, 3, 5, 7


@pytest.fixture(autouse=True)
def ran(monkeypatch):
    """How often layers were trained at once."""
    calls = []
    whole = llvm_training.Prepared.run

    def counted(*arguments):
        calls.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(llvm_training.Prepared, "run", counted)
    return calls


def pair(cell, layers=1, dtype=torch.float64, **more):
    """A layer by its equations, and the same by compiled code."""
    torch.manual_seed(0)
    found = [gatefuse.Recurrent(cell, I, H, layers, driver=name, dtype=dtype, **more) for name in ("eager", "llvm")]
    found[1].load_state_dict(found[0].state_dict())
    return found


def given(layer, resets, seed=1):
    """Input, first states, resets and states to begin anew with, of which gradients are wanted."""
    draw = torch.Generator().manual_seed(seed)

    def leaf(*shape):
        return torch.rand(shape, generator=draw, dtype=torch.float64).add_(0.1).requires_grad_()

    L, S = layer.num_layers, len(layer.cell.states)
    state = [leaf(L, B, H) for _ in range(S)]
    mask = torch.rand(T, B, generator=draw) < 0.3 if resets else None
    fresh = [leaf(L, B, H) for _ in range(S)] if resets == "given" else None
    return leaf(T, B, I), state, mask, fresh


def whole(found):
    return found[0] if len(found) == 1 else tuple(found)


def run(layer, x, state, mask, fresh, which=(True, True)):
    """The output, the final states, and all gradients of what is used of them."""
    options = beside(layer.cell, *x.shape[:2], dtype=x.dtype)
    output, finals = layer(x, whole(state), resets=mask, reset_state=fresh and whole(fresh), **options)
    finals = finals if isinstance(finals, tuple) else (finals,)
    draw = torch.Generator().manual_seed(2)
    used = [v for v, wanted in zip((output, finals[-1]), which, strict=True) if wanted]
    upstream = [torch.rand(v.shape, generator=draw, dtype=v.dtype) for v in used]
    leaves = [x, *state, *(fresh or ()), *layer.parameters()]
    return [output, *finals], torch.autograd.grad(used, leaves, upstream, allow_unused=True)


def check(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        a, b = (torch.zeros(()) if v is None else v for v in (a, b))
        torch.testing.assert_close(a, b.to(a.dtype).expand_as(a))


@pytest.mark.parametrize("cell", [*map(find_cell, cell_names()), *ALL], ids=lambda cell: cell.name)
@pytest.mark.parametrize(("layers", "resets"), [(1, ""), (2, "zero"), (3, "given")])
def test_gradients_are_those_of_the_equations(cell, layers, resets, ran):
    oracle, layer = pair(cell, layers)
    truth, found = (run(each, *given(each, resets)) for each in (oracle, layer))
    check(found[0], truth[0])
    check(found[1], truth[1])
    assert len(ran) == llvm_training.can_train(layer.cell, layer._form(False))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1, 64, 64), (3, 4, 128, 64), (2, 6, 5, 64), (4, 3, 64, 7)], ids=str)
@pytest.mark.parametrize("cell", [*map(find_cell, cell_names()), *ALL], ids=lambda cell: cell.name)
def test_few_steps_read_weights_as_they_lie(monkeypatch, cell, sizes):
    """Where whole panels of them lie one after the other; else they are laid out."""
    monkeypatch.setenv("GATEFUSE_DEBUG", "1")
    torch.use_deterministic_algorithms(False)
    T, B, I, H = sizes
    oracle, layer = (gatefuse.Recurrent(cell, I, H, 2, driver=name, dtype=torch.float64) for name in ("eager", "llvm"))
    layer.load_state_dict(oracle.state_dict())
    draw = torch.Generator().manual_seed(1)
    x = torch.rand(T, B, I, generator=draw, dtype=torch.float64).requires_grad_()
    state = [torch.rand(2, B, H, generator=draw, dtype=torch.float64).requires_grad_() for _ in cell.states]
    truth, found = (run(each, x, state, None, None) for each in (oracle, layer))
    check(found[0], truth[0])
    check(found[1], truth[1])


def test_which_calls_lay_weights_out(monkeypatch):
    def layouts(cell, T, I, H):
        version = find_cell(cell).current()
        form = gatefuse.Recurrent(cell, I, H)._form(False)
        x = torch.empty(T, 1, I)
        found = llvm_training.Prepared.of(version, x, (1, 1, H), form, None).schedule.backward
        loop, product = found[0], found[-1]
        return [run.arguments[run.compiled.fields.names.index("layout")] for run in (loop, product)]

    assert layouts("lstm", 1, 64, 64) == [LAID_OUT_NOW] * 2  # deterministic, as tests are
    torch.use_deterministic_algorithms(False)
    assert layouts("lstm", 1, 64, 64) == [AS_THEY_LIE] * 2
    assert layouts("lstm", 100, 64, 64) == [LAID_OUT_NOW] * 2
    assert layouts("lstm", 1, 5, 64) == [AS_THEY_LIE, LAID_OUT_NOW]
    assert layouts("lstm", 1, 64, 7) == [LAID_OUT_NOW, AS_THEY_LIE]


@pytest.mark.parametrize("which", [(True, False), (False, True)])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first"])
def test_what_nobody_uses_has_no_gradient(cell, which, ran):
    oracle, layer = pair(cell, 2)
    truth, found = (run(each, *given(each, "given"), which) for each in (oracle, layer))
    check(found[1], truth[1])
    assert ran


def test_without_biases_and_of_a_frozen_input(ran):
    oracle, layer = pair("gru", 2, bias=False)
    x = torch.randn(T, B, I, dtype=torch.float64)
    grads = []
    for each in (oracle, layer):
        output, _ = each(x)
        grads.append(torch.autograd.grad(output.square().sum(), list(each.parameters())))
    check(*grads)
    assert ran


def test_weights_and_input_may_lie_as_they_like(ran):
    oracle, layer = pair("peephole_lstm")
    names = [name for name, _ in layer.named_parameters()]
    turned = {
        name: p.detach().t().contiguous().t().requires_grad_() if p.dim() == 2 else p
        for name, p in layer.named_parameters()
    }
    x = torch.randn(B, I, T, dtype=torch.float64).permute(2, 0, 1).requires_grad_()
    found = torch.func.functional_call(layer, turned, (x,))[0]
    truth = oracle(x)[0]
    ours = torch.autograd.grad(found.square().sum(), [x, *(turned[name] for name in names)])
    check(ours, torch.autograd.grad(truth.square().sum(), [x, *oracle.parameters()]))
    assert ran


def test_gradients_have_gradients(ran):
    _, layer = pair("lstm", 2)
    x, state, mask, fresh = given(layer, "given")

    def loss(x, *states):
        output, finals = layer(x, states[:2], resets=mask, reset_state=states[2:])
        return output.sin().sum() + finals[1].sum()

    assert torch.autograd.gradgradcheck(loss, (x, *state, *fresh))
    assert ran


def test_the_output_may_be_changed_in_place_before_the_backward(ran):
    oracle, layer = pair("lstm")
    x, *_ = given(layer, "")
    found = layer(x)[0]
    expected = oracle(x)[0].mul(2.0)
    found.mul_(2.0)
    check(torch.autograd.grad(found.sum(), x), torch.autograd.grad(expected.sum(), x))
    assert ran


def test_the_number_of_threads_may_change_before_the_backward(ran):
    threads = torch.get_num_threads()
    layer = gatefuse.LSTM(64, 256, 2, driver="llvm")
    x = torch.randn(9, 40, 64)
    grads = []
    try:
        for forward, backward in ((1, 1), (2, 1), (1, 2)):
            torch.set_num_threads(forward)
            output = layer(x)[0]
            torch.set_num_threads(backward)
            grads.append(torch.autograd.grad(output.square().sum(), list(layer.parameters())))
    finally:
        torch.set_num_threads(threads)
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert len(ran) == 3
    assert available() >= 1


def test_hooks_of_saved_tensors_see_what_is_kept(ran):
    _, layer = pair("gru")
    x, *_ = given(layer, "")
    expected = torch.autograd.grad(layer(x)[0].sum(), x)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x)[0]
    check(torch.autograd.grad(output.sum(), x), expected)
    assert max(kept) >= T * B * H * 4
    assert ran


def test_gradients_of_both_biases_share_no_memory(ran):
    layer = gatefuse.LSTM(I, H)
    layer(torch.randn(T, B, I))[0].sum().backward()
    first, second = layer.bias_ih_l0.grad, layer.bias_hh_l0.grad
    assert torch.equal(first, second)
    first.zero_()
    assert second.abs().sum() > 0
    assert ran


@pytest.mark.parametrize("more", [{"bidirectional": True}, {"dropout": 0.5}])
def test_others_are_trained_layer_by_layer(more, ran):
    layer = gatefuse.LSTM(I, H, 2, driver="llvm", **more)
    layer(torch.randn(T, B, I, requires_grad=True))[0].sum().backward()
    assert isinstance(layer, nn.LSTM)
    assert not ran

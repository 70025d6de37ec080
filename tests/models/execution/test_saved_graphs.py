"""What compiled layers keep of a forward: right where a compiler writes over what they were given, gone in time."""

import gc

import pytest
import torch
from torch import nn, sigmoid, tanh
from torch._functorch import config as functorch
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent
from gatefuse.models.execution import saved_graphs
from tests.support.layers import CLOSE

I, H = 4, 6
DOUBLE = {"dtype": torch.float64}


@gatefuse.cell(gates="a b")
def unscripted(x, R, h):
    """No other test scripts it."""
    return tanh(x.a + R.a(h)) * sigmoid(x.b + R.b(h))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def alive():
    gc.collect()
    return len(saved_graphs._graphs)


class Between(nn.Module):
    """Layers whose input, resets and output are a compiler's own, which it may compute again, or write over."""

    def __init__(self, cell, resets=False, **options):
        super().__init__()
        self.resets = resets
        self.layer = Recurrent(cell, I, H, 2, **DOUBLE, **options)

    def forward(self, x):
        resets = x[..., 0].sin() > 0.5 if self.resets else None
        output, state = self.layer((x * 2).sin() + 1, resets=resets)
        other = (x + 3).cos().sum(-1, keepdim=True) * (x[..., 1:2].cos() > 0.5)
        return (output * 3).relu() + other * torch.ones_like(output), state


def gradients(model, layer, x):
    output, state = model(x)
    total = output.square().sum() + sum(s.sum() for s in (state if isinstance(state, tuple) else (state,)))
    return output, *torch.autograd.grad(total, [x, *layer.parameters()])


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True}, {"resets": True}, {"bidirectional": True, "driver": "vendor"}],
    ids=["plain", "both", "resets", "vendor"],
)
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman", "peephole_lstm", "slstm"])
def test_gradients_are_right_in_every_call(cell, options):
    if "driver" in options and cell in ("peephole_lstm", "slstm"):
        pytest.skip("torch has no loop for it")
    model = Between(cell, **options)
    compiled = torch.compile(model, fullgraph=True)
    for _ in range(3):
        x = torch.randn(5, 3, I, **DOUBLE, requires_grad=True)
        assert_close(gradients(compiled, model, x), gradients(model, model, x), **CLOSE)


class Written(nn.Module):
    """What comes before the layer can be computed again, what comes behind it fits where input and output lay."""

    def __init__(self, driver):
        super().__init__()
        self.layer, self.mixed = Recurrent("lstm", 16, 16, driver=driver), torch.eye(16)

    def forward(self, x):
        output, state = self.layer((x * 2).sin() + 1)
        return ((output * 3).relu() @ self.mixed).sin(), state


@pytest.mark.parametrize("driver", ["auto", "vendor"])
@pytest.mark.parametrize("memory", [1.0, 0.0])
def test_a_compiler_may_write_over_what_the_layer_was_given_and_gave(memory, driver):
    """In float32, as oneDNN's backward reads the output; the part of activations' memory decides what is kept."""
    model = Written(driver)
    with functorch.patch(activation_memory_budget=memory):
        compiled = torch.compile(model, fullgraph=True)
        for _ in range(2):
            x = torch.randn(50, 8, 16, requires_grad=True)
            assert_close(gradients(compiled, model, x), gradients(model, model, x), rtol=1e-4, atol=1e-3)


def trained(layer):
    """The layer compiled, after the first call, of which nothing is kept."""
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, I, **DOUBLE, requires_grad=True)
    gradients(compiled, layer, x)
    return compiled, x


@pytest.mark.slow
def test_nothing_stays_after_the_backward_or_without_one():
    layer = Recurrent("gru", I, H, **DOUBLE)
    compiled, x = trained(layer)
    before = alive()
    output, _ = compiled(x)
    assert alive() == before + 1
    output.sum().backward()
    assert alive() == before
    output, _ = compiled(x)
    assert alive() == before + 1
    del output, _
    assert alive() == before


def test_one_may_go_back_twice():
    layer = Recurrent("lstm", I, H, **DOUBLE)
    with functorch.patch(donated_buffer=False):  # what torch asks for
        compiled, x = trained(layer)
        output, _ = compiled(x)
        first, second = (torch.autograd.grad(output.sum(), x, retain_graph=True) for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)


def test_the_first_compiled_call_leaves_a_scripted_loop_its_gradients():
    """TorchScript makes of a loop what its first runs need, and torch lets no autograd into that call."""
    scripted, eager = (Recurrent(unscripted, I, H, driver=driver, **DOUBLE) for driver in ("script", "eager"))
    eager.load_state_dict(scripted.state_dict())
    compiled, _ = trained(scripted)
    for run in (compiled, scripted, scripted, scripted):
        x = torch.randn(5, 3, I, **DOUBLE, requires_grad=True)
        assert_close(gradients(run, scripted, x), gradients(eager, eager, x), **CLOSE)


def test_tensors_that_are_saved_elsewhere_come_back_as_copies(monkeypatch):
    layer = Recurrent("lstm", I, H, **DOUBLE)
    compiled, x = trained(layer)
    runs = []
    back = saved_graphs.back
    monkeypatch.setattr(saved_graphs, "back", lambda *given: runs.append(back(*given)) or runs[-1])
    expected = gradients(layer, layer, x)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        found = gradients(compiled, layer, x)
    assert_close(found, expected, **CLOSE)
    assert runs == [None]


def test_weights_that_need_no_gradient_get_none():
    layer = Recurrent("gru", I, H, **DOUBLE)
    layer.weight_ih_l0.requires_grad_(False)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        found = []
        for run in (compiled, layer):
            layer.zero_grad()
            x = torch.ones(5, 3, I, **DOUBLE)
            run(x)[0].square().sum().backward()
            found.append([p.grad for p in layer.parameters()])
        assert found[0][0] is found[1][0] is None
        assert_close(found[0][1:], found[1][1:], **CLOSE)


def test_dropout_acts_between_layers():
    layer = Recurrent("lstm", I, H, 3, bidirectional=True, dropout=1.0, **DOUBLE)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    states = torch.randn(6, 3, H, **DOUBLE), torch.randn(6, 3, H, **DOUBLE)
    x = torch.randn(5, 3, I, **DOUBLE)
    assert_close(compiled(x, states), layer(x, states), **CLOSE)
    assert_close(compiled.eval()(x, states), layer.eval()(x, states), **CLOSE)
    layer.train().dropout = 0.5
    torch.manual_seed(0)
    once = compiled(x)[0]
    torch.manual_seed(0)
    assert_close(compiled(x)[0], once)
    assert not torch.equal(compiled(x)[0], once)


def test_layers_alone_need_no_kernel_of_a_compilers():
    """On a CPU these take most of the time that compiling takes."""
    from torch._inductor import metrics

    layer = Recurrent("lstm", I, H, 2)
    metrics.reset()
    output, _ = torch.compile(layer, fullgraph=True)(torch.randn(5, 3, I))
    output.sum().backward()
    assert metrics.generated_kernel_count == 0

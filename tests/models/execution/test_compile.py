"""torch.compile takes layers whole: one graph, forward and backward, whose size doesn't depend on the steps."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close
from torch.torch_version import TorchVersion

import gatefuse
from gatefuse import Recurrent
from gatefuse.kernels.loops.llvm import training as llvm_training
from tests.support.layers import CLOSE, flat

I, H = 4, 6
DOUBLE = {"dtype": torch.float64}
OPTIONS = {
    "plain": {},
    "lengths": {"lengths": True},
    "resets": {"resets": True, "reset_state": True},
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def arguments(layer, steps, samples, lengths=False, resets=False, reset_state=False):
    """The input, which wants a gradient, and keyword arguments."""
    x = torch.randn(steps, samples, I, **DOUBLE, requires_grad=True)
    state = torch.randn(layer.num_layers * (1 + layer.bidirectional), samples, H, **DOUBLE)
    options = {
        "lengths": torch.randint(0, steps + 1, (samples,)) if lengths else None,
        "resets": torch.rand(steps, samples) < 0.3 if resets else None,
        "reset_state": (state,) * len(layer.cell.states) if reset_state and len(layer.cell.states) > 1 else None,
    }
    return x, {name: value for name, value in options.items() if value is not None}


def gradients(run, layer, x, options):
    results = flat(run(x, **options))
    return results, torch.autograd.grad(sum(r.square().sum() for r in results), [x, *layer.parameters()])


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    ("cell", "driver"),
    [("lstm", "auto"), ("gru", "auto"), ("peephole_lstm", "auto"), ("slstm", "auto"), ("lstm", "vendor")],
)
def test_one_graph_for_every_length_and_batch(cell, driver, options):
    if driver == "vendor" and "resets" in options:
        pytest.skip("torch's own loop has no resets")
    layer = Recurrent(cell, I, H, num_layers=2, bidirectional=True, driver=driver, **DOUBLE)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for steps, samples in ((5, 3), (9, 2), (2, 7)):
        call = arguments(layer, steps, samples, **options)
        assert_close(gradients(compiled, layer, *call), gradients(layer, layer, *call), **CLOSE)
    assert graphs() == 1


@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm"])
def test_the_graph_is_as_large_for_many_steps_as_for_few(cell):
    sizes = []

    def count(graph, inputs):
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def boxed(graph, inputs):
        return make_boxed_func(count(graph, inputs))

    layer = Recurrent(cell, I, H, num_layers=2, **DOUBLE)
    for steps in (4, 64):
        torch.compiler.reset()
        compiled = torch.compile(layer, backend=aot_autograd(fw_compiler=boxed, bw_compiler=boxed), fullgraph=True)
        gradients(compiled, layer, *arguments(layer, steps, 2))
    assert sizes[:2] == sizes[2:]  # forward and backward


@pytest.mark.parametrize("kind", [gatefuse.LSTM, gatefuse.GRU, gatefuse.RNN])
def test_layers_of_torch_s_names_compile_whole_where_the_user_allows_it(kind):
    layer = kind(I, H, 2, bidirectional=True, **DOUBLE)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for steps in (5, 9):
        x = torch.randn(steps, 3, I, **DOUBLE, requires_grad=True)
        with torch._dynamo.config.patch(allow_rnn=True):
            assert_close(gradients(compiled, layer, x, {}), gradients(layer, layer, x, {}), **CLOSE)
    assert graphs() == 1


def test_without_that_they_give_the_same_results_and_break_the_graph_as_torch_s_do():
    class Model(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.rnn, self.head = kind(I, H, **DOUBLE), nn.Linear(H, 2, **DOUBLE)

        def forward(self, x):
            return self.head(self.rnn(x.tanh())[0]).relu()

    x = torch.randn(5, 3, I, **DOUBLE)
    broken = []
    for kind in (gatefuse.LSTM, nn.LSTM):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        model = Model(kind)
        assert_close(torch.compile(model, backend="aot_eager")(x), model(x), **CLOSE)
        broken.append(graphs())
    assert broken[0] == broken[1]


@pytest.mark.parametrize("driver", ["eager", "script", "aten", "llvm", "vendor"])
def test_the_driver_that_was_asked_for_runs_within_the_graph(monkeypatch, driver):
    seen = []
    module = llvm_training if driver == "llvm" else gatefuse.kernels.drivers.driver(driver)
    name = {"vendor": "stack", "llvm": "layers"}.get(driver, "run")
    run = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: seen.append(driver) or run(*given))
    layer = Recurrent("lstm", I, H, driver=driver, **DOUBLE)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 3, I, **DOUBLE, requires_grad=True)
    gradients(compiled, layer, x, {})  # torch watches the first call, so that nothing is kept of it
    seen.clear()
    gradients(compiled, layer, x, {})
    assert seen == [driver]


def test_autocast_is_that_of_the_trace():
    layer = Recurrent("lstm", I, H)  # torch.gru knows no autocast on a CPU
    x = torch.randn(5, 3, I)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (a, _), (b, _) = compiled(x), layer(x)
    assert a.dtype == b.dtype == torch.bfloat16
    assert_close(a, b)


def test_a_whole_model_by_the_default_compiler():
    model = nn.Sequential(Recurrent("peephole_lstm", I, H, 2))
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(6, 3, I)
    for module in (compiled, model):
        module(x)[0].sum().backward()
    torch.testing.assert_close(compiled(x), model(x))


unpack = pad_packed_sequence
if TorchVersion(torch.__version__) < "2.13":  # torch.compile fails at it in torch 2.11, with torch.nn's layers too
    unpack = torch.compiler.disable(pad_packed_sequence)


class Packed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths):
        output, state = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return unpack(output)[0], state


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler looks at it
@pytest.mark.parametrize("limit", [8, 1], ids=["", "compiled once alone"])
@pytest.mark.parametrize("allow_rnn", [False, True])
@pytest.mark.parametrize(
    "kind", [gatefuse.LSTM, gatefuse.GRU, partial(Recurrent, "lstm"), partial(Recurrent, "peephole_lstm")]
)
def test_packed_sequences_break_the_graph_and_nothing_else(kind, allow_rnn, limit):
    """Their sizes are values, and what runs between the breaks is compiled too."""
    layer = Packed(kind(I, H, **DOUBLE))
    compiled = torch.compile(layer, backend="aot_eager")
    with torch._dynamo.config.patch(allow_rnn=allow_rnn, recompile_limit=limit):
        for steps, lengths in ((5, [5, 4, 2]), (5, [5, 5, 5]), (7, [1, 7, 1]), (1, [1, 1, 1])):
            found = []
            x = torch.randn(steps, 3, I, **DOUBLE)
            for run in (compiled, layer):
                leaf = x.clone().requires_grad_()
                output, state = run(leaf, torch.tensor(lengths))
                found.append((output, state, *torch.autograd.grad(output.square().sum(), leaf)))
            assert_close(*found, **CLOSE)

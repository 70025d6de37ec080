"""A layer that torch.compile leaves out of its graph runs as if nothing were compiled; cells it takes whole."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent
from gatefuse.kernels.drivers import vendor
from tests.support.layers import flat

# torch's compiler looks at it
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
I, H = 4, 6
# A network's input needs no gradient, and oneDNN, which runs an LSTM in float32 alone, keeps other things then.
SIZES = ((30, [30, 28, 27]), (30, [30, 30, 30]), (12, [12, 3, 1]))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Model(nn.Module):
    def __init__(self, layer, form):
        super().__init__()
        self.layer, self.head, self.form = layer, nn.Linear(H, 2), form

    def forward(self, x, lengths, resets):
        x = x.relu()
        if self.form == "packed":
            output = self.layer(pack_padded_sequence(x, lengths, enforce_sorted=False))[0].data
        elif self.form == "lengths":
            output = self.layer(x, lengths=lengths)[0]
        else:
            output = self.layer(x, resets=resets)[0]
        return self.head(output)


def assert_same_in_training(compiled, model, sizes=SIZES):
    for steps, lengths in sizes:
        given = torch.randn(steps, 3, I), torch.tensor(lengths), torch.rand(steps, 3) < 0.2
        found = []
        for run in (compiled, model):
            output = run(*given)
            found.append((output, *torch.autograd.grad(output.square().sum(), [*model.parameters()])))
        assert_close(*found, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            assert_close(compiled(*given), model(*given))


@pytest.mark.parametrize("form", ["packed", "lengths", "resets"])
@pytest.mark.parametrize("kind", [gatefuse.LSTM, gatefuse.GRU, gatefuse.RNN])
def test_a_network_trains_around_a_layer_of_torch_s_name(kind, form):
    model = Model(kind(I, H), form)
    assert_same_in_training(torch.compile(model, backend="aot_eager"), model)


def test_a_network_trains_by_the_default_compiler():
    model = Model(gatefuse.LSTM(I, H), "packed")
    assert_same_in_training(torch.compile(model), model, SIZES[:2])


@pytest.mark.parametrize("form", ["packed", "lengths"])
def test_a_network_trains_around_a_layer_that_is_compiled_no_more(form):
    model = Model(Recurrent("lstm", I, H), form)
    with torch._dynamo.config.patch(recompile_limit=1):
        assert_same_in_training(torch.compile(model, backend="aot_eager", dynamic=False), model)


def test_nothing_within_such_a_layer_is_compiled(without_llvm, monkeypatch):
    compiling, run = [], vendor.packed

    def watched(*given):
        compiling.append(torch.compiler.is_compiling())
        return run(*given)

    monkeypatch.setattr(vendor, "packed", watched)
    graphs = []
    for layer in (gatefuse.LSTM(I, H), nn.LSTM(I, H)):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(Model(layer, "packed"), backend="aot_eager")
        compiled(torch.randn(30, 3, I), torch.tensor([30, 28, 27]), None)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compiling == [False]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("driver", ["auto", "vendor", "eager", "script", "aten", "llvm"])
@pytest.mark.parametrize("kind", [gatefuse.LSTMCell, gatefuse.GRUCell, gatefuse.RNNCell])
def test_cells_compile_whole_by_every_driver_of_a_cpu(kind, driver):
    cell = kind(I, H, driver=driver)
    compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        x = torch.randn(3, I, requires_grad=True)
        state = torch.randn(3, H)
        for given in ((x,), (x, (state, state) if kind is gatefuse.LSTMCell else state), (x[0],)):
            found = []
            for run in (compiled, cell):
                results = flat(run(*given))
                total = sum(r.square().sum() for r in results)
                found.append((*results, *torch.autograd.grad(total, [x, *cell.parameters()])))
            assert_close(*found)

"""torch.export keeps one operator for each direction of each layer, for any number of steps."""

import copy
import io

import pytest
import torch
from torch import nn, tanh
from torch.export import Dim
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import gatefuse
from gatefuse import Recurrent
from gatefuse.models.execution import operators as layer_ops
from tests.support import opcheck
from tests.support.kernels.compiling import compiling
from tests.support.layers import CLOSE, flat

T, B, I, H = 5, 3, 4, 6
ANY = Dim.DYNAMIC


@gatefuse.cell(gates="a", init={"h": 0.5})
def leaky(x, R, h, *, p):
    return p * h + (1 - p) * tanh(x.a + R.a(h))


LAYERS = {
    "LSTM": lambda: gatefuse.LSTM(I, H, 2, bidirectional=True),
    "LSTM by vendor": lambda: gatefuse.LSTM(I, H, 2, bidirectional=True, driver="vendor"),
    "GRU, batch first": lambda: gatefuse.GRU(I, H, batch_first=True),
    "RNN by eager": lambda: gatefuse.RNN(I, H, nonlinearity="relu", bias=False, driver="eager"),
    "Recurrent": lambda: Recurrent("gru", I, H, 2, batch_first=True, bidirectional=True),
    "a cell of two products": lambda: Recurrent("gru_reset_first", I, H),
    "a user's cell": lambda: Recurrent(leaky, I, H),
}


def draw(layer, steps, samples):
    return torch.randn(*((samples, steps) if layer.batch_first else (steps, samples)), I, dtype=torch.float64)


def count(program):
    """How often the operator is in the graph, and how many operators there are."""
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return targets.count(torch.ops.gatefuse.layers.default), len(targets)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_any_number_of_steps_and_samples(build, strict):
    layer = build().double()
    if strict and isinstance(layer, nn.RNNBase):
        layer = Around(layer)  # as a root, torch's layers are refused there
    inner = layer.rnn if isinstance(layer, Around) else layer
    program = torch.export.export(layer, (draw(inner, T, B),), dynamic_shapes=({0: ANY, 1: ANY},), strict=strict)
    operators, _ = count(program)
    assert operators == 1
    for steps, samples in ((T, B), (2, 7), (40, 2)):
        x = draw(inner, steps, samples)
        for a, b in zip(flat(program.module()(x)), flat(layer(x)), strict=True):
            assert_close(a, b, **CLOSE)


class Around(nn.Module):
    def __init__(self, layer, **options):
        super().__init__()
        self.rnn = layer
        self.options = options

    def forward(self, x, *states):
        if not states:
            return self.rnn(x, **self.options)
        return self.rnn(x, states if len(states) > 1 else states[0], **self.options)


def test_states_are_inputs():
    layer = gatefuse.LSTM(I, H, 2)
    states = torch.randn(2, B, H), torch.randn(2, B, H)
    program = torch.export.export(
        Around(layer), (torch.randn(T, B, I), *states), dynamic_shapes=({0: ANY}, ({}, {})), strict=False
    )
    x = torch.randn(9, B, I)
    assert_close(flat(program.module()(x, *states)), flat(layer(x, states)))


def test_lengths_resets_and_all_states():
    layer = Recurrent("peephole_lstm", I, H, dtype=torch.float64)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = layer

        def forward(self, x, lengths, resets):
            return self.rnn(x, lengths=lengths, resets=resets, all_states=True)

    def arguments(steps):
        x = torch.randn(steps, B, I, dtype=torch.float64)
        return x, torch.tensor([steps, 0, 2]), torch.rand(steps, B) < 0.3

    program = torch.export.export(Model(), arguments(T), dynamic_shapes=({0: ANY}, {}, {0: ANY}))
    for steps in (T, 11):
        given = arguments(steps)
        for a, b in zip(flat(program.module()(*given)), flat(Model()(*given)), strict=True):
            assert_close(a, b, **CLOSE)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's loading
def test_an_accelerated_model_saves_and_loads():
    model = nn.Sequential(nn.GRU(I, H), Last(), nn.Linear(H, 2))
    gatefuse.accelerate(model)
    x = torch.randn(T, B, I)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: ANY, 1: ANY},))
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    loaded = torch.export.load(saved)
    x = torch.randn(2 * T, 2 * B, I)
    assert_close(loaded.module()(x), model(x))


@pytest.mark.slow
def test_a_program_runs_in_a_process_that_only_imports_gatefuse(tmp_path):
    layer, x = Recurrent("lstm", I, H), torch.randn(T, B, I)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "program.pt2")
    torch.save((x, layer(x)[0].detach()), tmp_path / "call.pt")
    program = """
import sys
import torch
import gatefuse
x, expected = torch.load(sys.argv[1] + "/call.pt")
torch.testing.assert_close(torch.export.load(sys.argv[1] + "/program.pt2").module()(x)[0], expected)
"""
    assert compiling(program, tmp_path, tmp_path) == []


def test_importing_gatefuse_defines_the_operators_and_brings_no_compiler(tmp_path):
    program = """
import sys
import torch
heavy = ("torch._dynamo", "torch._inductor", "torch.utils.flop_counter", "functorch", "triton")
before = [name in sys.modules for name in heavy]
import gatefuse
assert before == [name in sys.modules for name in heavy]
names = "layers", "layers_gradients", "layers_in_training", "layers_kept", "sequence_forward", "sequence_backward"
for name in names:
    assert torch._C._dispatch_has_kernel(f"gatefuse::{name}"), name
"""
    assert compiling(program, tmp_path) == []


class Last(nn.Module):
    def forward(self, result):
        return result[0][-1]


def test_cells_become_plain_operators():
    cell = gatefuse.LSTMCell(I, H, driver="eager")
    program = torch.export.export(cell, (torch.randn(B, I),), dynamic_shapes=({0: ANY},))
    assert count(program)[0] == 0
    x = torch.randn(2 * B, I)
    assert_close(program.module()(x), cell(x))


@pytest.mark.filterwarnings("ignore:LSTM with projections", "ignore:The tensor attributes self._flat_weights")
def test_projections_are_torchs_alone():
    layer = gatefuse.LSTM(I, H, proj_size=2)
    program = torch.export.export(layer, (torch.randn(T, B, I),))
    assert count(program)[0] == 0


@pytest.mark.parametrize("driver", ["auto", "vendor"])
def test_nothing_is_different_afterwards(driver):
    layer = gatefuse.LSTM(I, H, 2, driver=driver)
    x = torch.randn(T, B, I)
    before, attributes, plan = layer(x), copy.copy(vars(layer)), layer.plan(x)
    torch.export.export(layer, (x,))
    assert vars(layer) == attributes
    assert torch.equal(layer(x)[0], before[0])
    assert layer.plan(x) == plan


@pytest.mark.parametrize(
    ("cell", "options", "driver"), [("lstm", False, "auto"), ("lstm", False, "vendor"), ("peephole_lstm", True, "auto")]
)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_operator_is_sound(cell, options, driver, bidirectional):
    cell = gatefuse.find_cell(cell)
    G, S, rows = len(cell.gates), len(cell.states), 1 + bidirectional
    weights = torch.randn(G * H, I), torch.randn(G * H, H), torch.randn(G * H), torch.randn(G * H)
    states = [torch.randn(rows, B, H) for _ in range(S)]
    arguments = (
        torch.randn(T, B, I), states if options else [], [*weights, *[torch.randn(H) for _ in cell.parameters]] * rows,
        [s.clone() for s in states] if options else [], torch.tensor([T, 0, 2]),
        torch.rand(T, B) < 0.3 if options else None, cell.key, driver, True, bidirectional, options,
    )  # fmt: skip
    opcheck.check(layer_ops.layers, arguments)
    count = 0
    for tensor in tree_leaves(arguments):
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            tensor.requires_grad_()
            count += 1
    opcheck.check(layer_ops.layers, arguments)
    training = *arguments[:6], [True] * count, *arguments[6:]
    opcheck.check(torch.ops.gatefuse.layers_in_training.default, training)


def test_an_exported_program_trains():
    layer = Recurrent("lstm", I, H)
    x = torch.randn(T, B, I, requires_grad=True)
    program = torch.export.export(layer, (x,)).module()
    found = [torch.autograd.grad(m(x)[0].square().sum(), [x, *m.parameters()]) for m in (program, layer)]
    assert_close(*found)

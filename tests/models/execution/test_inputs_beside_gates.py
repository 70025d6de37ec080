"""Inputs beside the gates through torch.compile, torch.export, transforms and traces, against the plain call."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.func import vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import gatefuse
from gatefuse import Recurrent, export_object, scripted
from tests.support.cells_with_inputs import aging, draw, scored

I, H = 3, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def compiler():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


def make(cell=aging, **options):
    return Recurrent(cell, I, H, dtype=torch.float64, **options)


def given(generator, steps, samples):
    """x, and inputs of both kinds."""
    inputs = {"age": draw(generator, steps, samples), "left": draw(generator, 1, samples, H)}
    return draw(generator, steps, samples, I), inputs


def gradients(run, layer, x, inputs, **options):
    torch.manual_seed(7)
    output, finals = run(x, inputs=inputs, **options)
    total = output.square().sum() + sum(s.sum() for s in finals)
    return output, torch.autograd.grad(total, [x, *inputs.values(), *layer.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("driver", ["auto", "eager"])
def test_one_graph_of_torch_compile(generator, compiler, driver, lengths):
    layer = make(num_layers=2, bidirectional=True, driver=driver)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for steps, samples in ((6, 4), (9, 2), (8, 7)):
        x, inputs = given(generator, steps, samples)
        options = {"lengths": torch.arange(samples) % steps} if lengths else {}
        assert_close(
            gradients(compiled, layer, x, inputs, **options), gradients(layer, layer, x, inputs, **options), **CLOSE
        )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_compiled_without_gradients(generator, compiler):
    layer = make(num_layers=2, dropout=0.5).eval()
    x, inputs = given(generator, 5, 3)
    with torch.no_grad():
        expected = layer(x, inputs=inputs)
        assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x, inputs=inputs), expected, **CLOSE)


def test_compiled_with_dropout_between_layers(generator, compiler):
    layer = make(num_layers=2, bidirectional=True, dropout=0.4)
    x, inputs = given(generator, 5, 3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(gradients(compiled, layer, x, inputs), gradients(layer, layer, x, inputs), **CLOSE)


@pytest.mark.parametrize("strict", [False, True])
def test_export_for_any_number_of_steps(generator, strict):
    layer = make(num_layers=2, bidirectional=True)
    x, inputs = given(generator, 5, 3)
    sizes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    shapes = {"x": sizes, "inputs": {"age": sizes, "left": {1: Dim.DYNAMIC}}}
    program = torch.export.export(layer, (x,), {"inputs": inputs}, dynamic_shapes=shapes, strict=strict)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.gatefuse.layers.default) == 1
    for steps, samples in ((5, 3), (2, 7), (40, 2)):
        x, inputs = given(generator, steps, samples)
        assert_close(program.module()(x, inputs=inputs), layer(x, inputs=inputs), **CLOSE)


def test_vmap(generator):
    layer, oracle = make(), make(driver="eager")
    oracle.load_state_dict(layer.state_dict())
    x, inputs = draw(generator, 4, 5, 3, I), {"age": draw(generator, 4, 5, 3), "left": draw(generator, 4, 5, 3, H)}
    found = vmap(lambda x, inputs: layer(x, inputs=inputs)[0])(x, inputs)
    expected = [oracle(x[k], inputs={name: a[k] for name, a in inputs.items()})[0] for k in range(4)]
    assert_close(found, torch.stack(expected), **CLOSE)


def test_a_checkpoint_runs_the_same_again(generator):
    layer = make(num_layers=2, dropout=0.3)
    x, inputs = given(generator, 5, 3)

    def run(x, inputs):
        return checkpoint(layer, x, inputs=inputs, use_reentrant=False)

    assert_close(gradients(run, layer, x, inputs), gradients(layer, layer, x, inputs), **CLOSE)


class Calling(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, age, left):
        return self.layer(x, inputs={"age": age, "left": left})[0]


def test_fx_records_one_call(generator):
    model = Calling(make())
    graph = torch.fx.symbolic_trace(model)
    assert [node.op for node in graph.graph.nodes].count("call_module") == 1
    x, inputs = given(generator, 5, 3)
    assert_close(graph(x, *inputs.values()), model(x, *inputs.values()), **CLOSE)


def test_fx_records_an_input_alone(generator):
    x, inputs = given(generator, 5, 3)
    layer = make(scored)

    class Scoring(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer
            self.register_buffer("x", x.detach())

        def forward(self, a):
            return self.layer(self.x, inputs={"a": a})[0]

    graph = torch.fx.symbolic_trace(Scoring())
    assert "call_module" in [node.op for node in graph.graph.nodes]
    assert_close(graph(inputs["age"]), layer(x, inputs={"a": inputs["age"]})[0], **CLOSE)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*is deprecated:DeprecationWarning")
def test_a_trace_is_for_any_number_of_steps(generator):
    model = Calling(make())
    x, inputs = given(generator, 5, 3)
    traced = torch.jit.trace(model, (x, *inputs.values()), check_trace=False)
    x, inputs = given(generator, 8, 3)
    assert_close(traced(x, *inputs.values()), model(x, *inputs.values()), **CLOSE)


def test_operations_are_counted_as_without(generator):
    x, inputs = given(generator, 5, 3)
    with FlopCounterMode(display=False) as counter:
        make(scored, driver="eager")(x, inputs={"a": inputs["age"]})
    # two gates fed by x and by h
    assert counter.get_total_flops() == 2 * 5 * 3 * (I + H) * 2 * H
    assert gatefuse.kernels.work.input_products(scored, I, H) == 2 * I * H


def test_what_has_no_form_for_inputs_refuses(tmp_path):
    with pytest.raises(ValueError, match=r"must have no inputs beside its gates to be scripted\. Got scored with a\."):
        scripted(make(scored))
    text = "must have a cell without inputs beside its gates, for which C has no argument. Got aging with age, left."
    with pytest.raises(TypeError, match=re.escape(text)):
        export_object(Recurrent(aging, I, H), tmp_path / "aging.o")
    assert not list(tmp_path.iterdir())

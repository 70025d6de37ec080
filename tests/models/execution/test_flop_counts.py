"""torch's counter of operations sees in gatefuse's operators what it sees in the eager loop."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn, sigmoid, tanh
from torch.utils.flop_counter import FlopCounterMode

import gatefuse
from gatefuse import Recurrent
from gatefuse.kernels.task import Form
from gatefuse.models.execution import compiled
from tests.support.kernels.compiling import ROOT
from tests.support.layers import flat

T, B, I, H = 5, 3, 4, 6


@gatefuse.cell(gates="a b c")
def three(x, R, h, d):
    """Two stages, and a gate without a recurrent product."""
    b = sigmoid(x.b + R.b(h))
    d = tanh(x.a + R.a(b * d))
    return b * h + sigmoid(x.c) * d, d


def counting():
    return FlopCounterMode(display=False)


def counted(layer, run=None, needs_input=True):
    """Operations forward and backward, where all states are given and wanted."""
    x = torch.randn(T, B, I, requires_grad=needs_input)
    rows = layer.num_layers * (1 + layer.bidirectional)
    states = tuple([torch.randn(rows, B, H, requires_grad=True) for _ in layer.cell.states])
    with counting() as counter:
        results = (layer if run is None else run)(x, states if len(states) > 1 else states[0])
        forward = counter.get_total_flops()
        sum(r.square().sum() for r in flat(results)).backward()
        return forward, counter.get_total_flops() - forward


def pair(cell, driver, **options):
    return Recurrent(cell, I, H, driver=driver, **options), Recurrent(cell, I, H, driver="eager", **options)


CELLS = ["lstm", "gru", "gru_reset_first", "peephole_lstm", "slstm", three]


@pytest.mark.parametrize("driver", ["aten", "llvm"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_loop_of_gatefuse_s_is_counted_as_the_eager_loop(cell, driver):
    ours, eager = pair(cell, driver, num_layers=2, bidirectional=True)
    forward, backward = counted(ours)
    assert (forward, backward) == counted(eager)
    assert backward == 2 * forward


def run_as_compiled(layer, *given):
    """By the operators that torch.compile calls."""
    call = layer._prepare(*given, None, None, None, False)
    sequences, finals = compiled.run(layer.cell, "eager", call, Form(True, layer.num_layers, layer.bidirectional))
    return *sequences, *finals


@pytest.mark.parametrize("needs_input", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_operators_of_compiled_layers_are_counted_as_the_eager_loop(cell, needs_input):
    layer = Recurrent(cell, I, H, 2, bidirectional=True, driver="eager")
    run = partial(run_as_compiled, layer)
    assert counted(layer, run, needs_input) == counted(layer, needs_input=needs_input)


def test_an_exported_program_runs_the_layers_once_more_for_their_gradients():
    ours, eager = pair("peephole_lstm", "auto")
    state = torch.randn(1, B, H)
    program = torch.export.export(ours, (torch.randn(T, B, I), (state, state))).module()
    forward, backward = counted(eager)
    assert counted(ours, program) == (forward, forward + backward)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_s_own_loops_are_counted_as_torch_counts_them(kind, dtype):
    found = []
    for layer in (getattr(gatefuse, kind)(I, H, dtype=dtype, driver="vendor"), getattr(nn, kind)(I, H, dtype=dtype)):
        with counting() as counter:
            layer(torch.randn(T, B, I, dtype=dtype))[0].sum().backward()
        found.append(counter.get_total_flops())
    assert found[0] == found[1]


def test_a_cell_that_can_not_be_translated_is_taken_to_have_every_product():
    @gatefuse.cell(gates="a b")
    def strange(x, R, h):
        return torch.softmax(x.a + R.a(h) + x.b, -1)

    layer = Recurrent(strange, I, H)
    program = torch.export.export(layer, (torch.randn(T, B, I),)).module()
    with torch.no_grad(), counting() as counter:
        program(torch.randn(T, B, I))
    assert counter.get_total_flops() == 2 * T * B * 2 * H * (I + H)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["gatefuse, torch.utils.flop_counter", "torch.utils.flop_counter, gatefuse"])
def test_whichever_is_imported_first(order):
    program = f"""
import sys
import {order}
import torch
from torch.utils.flop_counter import FlopCounterMode
layer = gatefuse.Recurrent("peephole_lstm", 4, 6, driver="aten")
with FlopCounterMode(display=False) as counter:
    layer(torch.ones(5, 3, 4))
print(counter.get_total_flops(), sum("flop_counts" in type(f).__module__ for f in sys.meta_path))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(2 * 5 * 3 * 4 * 6 * (4 + 6)), "0"]

"""Versions of equations: made by a first call, whatever is at work around it, named by keys, freed with their cell."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from torch import nn, relu, sigmoid, tanh
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import gatefuse
from gatefuse import Recurrent, cell
from gatefuse.kernels.cell import Cell
from tests.kernels.equations.agreement import B, H, I


def new_cell():
    @cell(gates="a b")
    def fresh(x, R, h):
        return tanh(x.a + R.a(h)) * sigmoid(x.b + R.b(h))

    return fresh


@pytest.mark.parametrize("driver", ["auto", "aten", "llvm", "script"])
def test_the_first_call_draws_no_random_numbers(driver):
    layer, x = Recurrent(new_cell(), I, H, num_layers=2, dropout=0.5, driver=driver), torch.randn(20, B, I)
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        drawn.append((layer(x)[0], torch.rand(3)))
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert_close(drawn[0][0], drawn[1][0])


@pytest.mark.parametrize("driver", ["auto", "aten", "llvm", "script"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_the_first_call_may_be_within_a_checkpoint(driver, reentrant):
    layer = Recurrent(new_cell(), I, H, num_layers=2, dropout=0.5, driver=driver)
    x = torch.randn(20, B, I, requires_grad=True)
    torch.manual_seed(1)
    checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant).square().sum().backward()
    torch.manual_seed(1)
    (expected,) = torch.autograd.grad(layer(x)[0].square().sum(), x)
    assert_close(x.grad, expected)


@pytest.mark.parametrize("driver", ["auto", "aten", "llvm"])
def test_the_first_call_may_be_within_other_modes(driver):
    for mode in (
        lambda: torch.autograd.set_detect_anomaly(True),
        torch.autograd.graph.save_on_cpu,
        torch.inference_mode,
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ):
        layer, x = Recurrent(new_cell(), I, H, driver=driver), torch.randn(20, B, I)
        try:
            with mode():
                torch.is_anomaly_enabled()
                layer.cell.refusal  # noqa: B018  (traces)
        finally:
            assert not torch.is_anomaly_enabled()
        assert layer.cell.refusal == ""
        assert layer.plan(x).driver == ("llvm" if driver == "auto" else driver)


@pytest.mark.parametrize("driver", ["aten", "llvm"])
def test_many_threads_may_be_the_first_to_call(driver, request):
    if driver == "aten":
        request.getfixturevalue("without_llvm")
    layer, x = Recurrent(new_cell(), I, H), torch.randn(20, B, I)
    together, found = threading.Barrier(12), []

    def call():
        together.wait()
        found.append(layer(x)[0])

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(torch.equal(each, found[0]) for each in found)
    assert layer.plan(x).driver == driver
    assert len(layer.cell._versions) == 1


def test_other_equations_of_a_cell_are_traced_anew():
    unit = new_cell()
    before, key = gatefuse.source(unit), unit.key
    unit.equations = lambda x, R, h: relu(x.a + R.a(h)) - sigmoid(x.b)
    assert unit.key != key
    assert gatefuse.source(unit) != before
    layer, x = Recurrent(unit, I, H), torch.randn(20, B, I)
    aten = layer(x)[0]
    layer.driver = "eager"
    assert_close(aten, layer(x)[0])


def test_a_key_depends_on_nothing_but_the_equations():
    before = new_cell()
    other = cell(gates="a b")(lambda x, R, h: h)
    after = new_cell()
    assert before.key == after.key != other.key
    assert before.serial != after.serial


def test_code_of_other_equations_under_a_name_is_refused():
    label = new_cell().key.rpartition(":")[0]
    alive = new_cell()
    with pytest.raises(
        ValueError, match=r"a program must run the equations that it was made of\. Got .* other equations"
    ):
        Cell.by_key(f"{label}:0123456789abcdef")
    assert Cell.by_key(alive.key).origin.label == label


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm", "script", "step", "auto"])
def test_cells_are_freed_with_all_that_was_made_of_them(driver):
    held = nn.Tanh()  # what a closure holds
    unit = cell(gates="a b")(lambda x, R, h: held(x.a + R.a(h)) * sigmoid(x.b + R.b(h)))  # noqa: F821
    layer, x = Recurrent(unit, I, H, driver=driver), torch.randn(20, B, I)
    layer(x)[0].sum().backward()
    layer.plan(x)
    alive = weakref.ref(unit), weakref.ref(held)
    del unit, layer, held
    gc.collect()
    assert [each() for each in alive] == [None, None]


@pytest.mark.parametrize("driver", ["aten", "llvm"])
def test_a_backward_runs_when_the_layer_is_gone(driver):
    x = torch.randn(20, B, I, requires_grad=True)
    loss = Recurrent(new_cell(), I, H, driver=driver)(x)[0].sum()
    gc.collect()
    loss.backward()
    assert x.grad.abs().sum() > 0

"""Cells that are given their input's product, by every driver, against the cells with weights that change nothing."""

import dataclasses
import re

import pytest
import torch

from gatefuse.kernels.cell import cell
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.elementwise import elementwise
from gatefuse.kernels.given_product import given_product
from gatefuse.kernels.task import Task
from tests.support import oracle

T, B, H = 5, 3, 8
CELLS = ("lstm", "slstm", "li_gru", "augru", "layer_norm_gru", "peephole_lstm")


def of_product(name, made=None, **options) -> Task:
    """A task of a cell that is given its product, of random values."""
    fed = given_product(find_cell(name).serial)
    return oracle.make_task(fed, T, B, H, **options)


class Multiplied:
    """As a driver: a cell that is given a product runs as the cell itself, by weights of ones and zeros."""

    def __init__(self, original):
        self.cell = original

    def run(self, task):
        gates = len(self.cell.input_gates)
        x = torch.cat([a.expand(T, B, H) for a in task.inputs[:gates]], -1)
        own = torch.eye(gates * H, dtype=x.dtype)
        bias = None if task.weights.recurrent_bias is None else x.new_zeros(gates * H)
        weights = task.weights._replace(input=own, input_bias=bias)
        change = {"cell": self.cell, "x": x, "weights": weights, "inputs": task.inputs[gates:]}
        return driver("eager").run(dataclasses.replace(task, **change))


@pytest.mark.parametrize("masks", [{}, {"lengths": True, "resets": True, "fresh": True}, {"bias": False}])
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("by", ["eager", "script", "aten", "llvm"])
def test_as_the_cell_with_weights(by, name, masks):
    task = oracle.cast(of_product(name, **masks), torch.float64)
    expected = oracle.results(Multiplied(find_cell(name)), task)
    found = oracle.results(driver(by), task)
    for what, value in expected.items():
        if what not in ("d_x", "d_weight_ih", "d_bias_ih"):  # of what nobody reads
            torch.testing.assert_close(found[what], value, rtol=1e-10, atol=1e-10, msg=what)


@pytest.mark.parametrize("name", ["slstm", "li_gru", "layer_norm_gru"])
@pytest.mark.parametrize("by", ["step", "block", "grid"])
def test_by_kernels(by, name):
    oracle.check(driver(by), of_product(name), torch.float32)


@pytest.mark.parametrize("by", ["eager", "aten", "llvm"])
def test_with_numbers_in_the_place_of_R(by):
    """As a layer with a head for each unit runs it."""
    original = find_cell("li_gru")
    made = elementwise(given_product(original.serial).serial, False)
    task = oracle.cast(oracle.make_task(made, T, B, H, bias=False), torch.float64)
    w_z, w_n = task.weights.parameters
    blocks = torch.cat([torch.diag(w_z), torch.diag(w_n)])
    whole = dataclasses.replace(task, weights=task.weights._replace(recurrent=blocks, parameters=()))
    expected = Multiplied(original).run(whole)
    leaves = (*task.inputs, w_z, w_n)
    found = driver(by).run(task)
    torch.testing.assert_close(found.sequences, expected.sequences, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(o.sequences[0].square().sum(), leaves) for o in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_one_for_a_cell():
    original = find_cell("slstm")
    made = given_product(original.serial)
    assert made is given_product(original.serial)
    assert made.inputs == ("product_i", "product_f", "product_z", "product_o")
    assert (made.input_gates, made.recurrent_gates, made.states) == ((), original.gates, original.states)
    assert made.key != original.key


def test_gates_must_have_two_sides():
    @cell(gates="z c:x")
    def one_sided(x, R, h):
        return (x.z + R.z(h)).sigmoid() * x.c

    with pytest.raises(ValueError, match=re.escape("must have gates of two sides. Got c:x.")):
        given_product(one_sided.serial)

"""The loops written by hand, which speed-ups are over."""

import pytest
import torch

from gatefuse.bench.measure import race
from gatefuse.bench.measure.clocks import CpuClock
from gatefuse.bench.suite import contenders as who
from gatefuse.bench.suite import hand_written, networks
from gatefuse.bench.suite.sweeps import SWEEPS, Group, Shape, groups
from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.equations.facts import mixes_units

CPU = torch.device("cpu")


def test_every_shipped_cell_has_one_and_every_group_is_measured_against_it():
    assert set(hand_written.STEPS) == set(cell_names())
    for sweep in (name for name in SWEEPS if name != who.FIRST):  # which has no loop in Python
        for device in ("cpu", "cuda"):
            for group in groups(sweep, device):
                name = who.baseline(group)
                (found,) = (c for c in who.contenders(group) if c.name == name)
                assert (found.name, found.driver, found.refusal(group, CPU)) == (who.HAND_WRITTEN, "", "")


FORMS = [(1, False, False, 1), (2, True, False, 1), (2, True, True, 1), (1, False, False, 2)]


@pytest.mark.parametrize("cell", cell_names())
@pytest.mark.parametrize(("layers", "both", "ragged", "heads"), FORMS)
def test_they_compute_the_cell(cell, layers, both, ragged, heads):
    heads = 1 if mixes_units(find_cell(cell).serial) else heads
    shape = Shape(cell, 6, 4, 7, 3, layers, both, fill=0.6 if ragged else 1.0, ragged=ragged, heads=heads)
    group = Group(shape, "float64", "training")
    source = networks.make_source(group, CPU)
    loop, oracle = hand_written.build(group, source), networks.make_oracle(group, source)
    x = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True)
    found, truth = loop.forward(x), oracle.forward(x)
    torch.testing.assert_close(found, truth)
    upstream = torch.randn_like(truth)
    for a, b in zip(*(torch.autograd.grad(y, x, upstream) for y in (found, truth)), strict=True):
        torch.testing.assert_close(a, b)
    assert found.abs().sum() > 0


@pytest.mark.slow
def test_gradients_of_all_weights_are_asked_of_them():
    group = Group(Shape("peephole_lstm", 5, 4, 7, 3, 2), "float32", "training")
    loop = hand_written.build(group, networks.make_source(group, CPU))
    assert len(loop.parameters) == 2 * (2 + 1 + 3)
    row, _ = race.race(group, CpuClock(), CPU, budget=0.0)[who.HAND_WRITTEN]
    assert (row.status, row.baseline, row.speedup) == ("ok", who.HAND_WRITTEN, 1.0)
    grads = torch.autograd.grad(loop.forward(torch.randn(7, 4, 3)).sum(), loop.parameters)
    assert all(grad.abs().sum() > 0 for grad in grads)

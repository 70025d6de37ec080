"""A user's own cell goes the same road as the shipped ones, through every driver."""

import copy

import pytest
import torch
from torch import relu, sigmoid

import gatefuse
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.task import Request
from tests.kernels.drivers.test_drivers import OPTIONS, everywhere
from tests.support.made_up_cells import ALL
from tests.support.oracle import check, make_task

# Two means and a largest value between products take kernels long.
CELLS = [pytest.param(cell, marks=pytest.mark.slow) if cell.name == "attending" else cell for cell in ALL]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@everywhere
def test_own_cells(device, name, cell, options):
    check(driver(name), make_task(cell, 4, 3, 6, **options), torch.float32, device)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eager", "script", "aten", "llvm", "step", "block", "grid"])
@pytest.mark.parametrize("source", ["slstm", "on the spot"])
def test_trains_through_every_driver(source, name):
    if source == "on the spot":

        @gatefuse.cell(gates="z a")
        def leaky(x, R, h, *, tau):
            z = sigmoid(x.z + R.z(h) + tau)
            return (1 - z) * h + z * relu(x.a + R.a(h))

        source = leaky
    torch.manual_seed(0)
    model = torch.nn.Sequential(gatefuse.Recurrent(source, 2, 12, driver=name), Head(12))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    x = torch.randn(6, 16, 2)
    y = x.cumsum(0)[..., :1].tanh()
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


class Head(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.out = torch.nn.Linear(size, 1)

    def forward(self, result):
        return self.out(result[0])


def test_vendor_says_why_it_can_t_run_an_own_cell():
    request = Request(ALL[0], torch.device("cpu"), torch.float32, 4, 3, 6)
    assert driver("vendor").refusal(request)
    assert set(DRIVERS) == {"eager", "script", "aten", "llvm", "step", "block", "grid", "vendor"}


def test_a_layer_of_an_own_cell_copies():
    layer = gatefuse.Recurrent(ALL[0], 2, 3)
    assert copy.deepcopy(layer).cell is ALL[0]

"""torch.compile follows the choice of a driver for a GPU, also one that isn't there; nothing runs on it."""

from types import SimpleNamespace

import pytest
import torch

from gatefuse import find_cell
from gatefuse.kernels.drivers import grid
from gatefuse.kernels.plan import choose
from gatefuse.kernels.runtime import device as limits
from gatefuse.kernels.task import Request

GPU = torch.device("cuda", 0)
H100 = SimpleNamespace(shared_memory_per_block_optin=232_448, multi_processor_count=132, major=9)


@pytest.fixture(autouse=True)
def device(monkeypatch):
    def compiler_and_limits_anew():
        torch.compiler.reset()
        limits._read.cache_clear()

    compiler_and_limits_anew()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: H100)
    yield
    compiler_and_limits_anew()


def request(x, cell, H):
    return Request(cell, GPU, torch.float16, x.shape[0], x.shape[1], H, needs_grad=True)


class Choice(torch.nn.Module):
    """In the place of a layer."""

    def __init__(self, wanted, cell, H):
        super().__init__()
        self.wanted, self.cell, self.H = wanted, find_cell(cell), H

    def forward(self, x):
        return x + 1, choose(request(x, self.cell, self.H), self.wanted).driver


class Fit(Choice):
    def forward(self, x):
        return x + 1, grid.both_refusal(request(x, self.cell, self.H))


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize(
    ("wanted", "cell", "H", "expected"),
    [
        ("step", "slstm", 650, "step"),
        ("block", "peephole_lstm", 64, "block"),
        ("grid", "gru_reset_first", 650, "grid"),
        ("auto", "lstm", 64, "vendor"),
        ("auto", "peephole_lstm", 64, "block"),
        ("auto", "peephole_lstm", 650, "step"),
    ],
)
def test_a_driver_is_chosen(wanted, cell, H, expected, dynamic):
    choice = torch.compile(Choice(wanted, cell, H), fullgraph=True, dynamic=dynamic, backend="eager")
    for T, B in ((5, 3), (7, 40)):
        assert choice(torch.zeros(T, B))[1] == expected


@pytest.mark.parametrize(("H", "fits"), [(650, True), (1536, False)])
def test_whether_both_directions_fit(H, fits):
    fit = Fit("grid", "lstm", H)
    compiled = torch.compile(fit, fullgraph=True, dynamic=True, backend="eager")
    for B in (3, 30):
        why = compiled(torch.zeros(5, B))[1]
        assert why == fit(torch.zeros(5, B))[1]
        assert (why == "") == fits


def test_a_fit_is_the_same_for_every_batch():
    """What compiled calls of any batch rest on: the answer is asked for without it."""
    for H in (64, 650, 1536, 2048, 4096):
        answers = {grid.refusal(request(torch.zeros(5, B), find_cell("lstm"), H)) for B in (1, 3, 64, 1000)}
        assert len(answers) == 1
    assert answers != {""}

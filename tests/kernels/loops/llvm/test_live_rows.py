"""Products over the rows of live steps alone, by the rule of all drivers."""

from types import SimpleNamespace

import pytest
import torch

from gatefuse import Recurrent, find_cell
from gatefuse.kernels.drivers import llvm
from gatefuse.kernels.loops.llvm import live_rows
from tests.support.made_up_cells import two_vectors
from tests.support.oracle import check, make_task

# products of states and of computed vectors, reductions, inputs beside the gates, and none of these
CELLS = ("lstm", "gru_reset_first", "slstm", "gru_d", "layer_norm_gru", "min_lstm")


@pytest.fixture
def always(monkeypatch):
    """Also where nothing is saved by it; how often it is done."""
    monkeypatch.setattr(live_rows, "_LEAST", 0)
    monkeypatch.setattr(live_rows, "_A_NUMBER", 0)
    found, made = [], live_rows.LiveRows
    monkeypatch.setattr(live_rows, "LiveRows", lambda places: found.append(len(places)) or made(places))
    return found


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"resets": True, "fresh": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("cell", [*CELLS, two_vectors], ids=str)
def test_gradients_are_those_of_all_rows(cell, options, always):
    cell = cell if cell is two_vectors else find_cell(cell)
    check(llvm, make_task(cell, 6, 5, 9, lengths=True, all_states=True, **options), torch.float32)
    check(llvm, make_task(cell, 6, 5, 9, lengths=True, **options), torch.float64)
    assert always


@pytest.mark.parametrize("lengths", [[0, 0], [4, 0], [1, 1], [4, 4]], ids=str)
def test_samples_without_steps_and_with_all(lengths, always):
    ours, oracle = (Recurrent("gru_reset_first", 3, 5, 2, driver=d, dtype=torch.float64) for d in ("llvm", "eager"))
    ours.load_state_dict(oracle.state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    x[torch.arange(4)[:, None] >= torch.tensor(lengths)] = torch.nan  # which no product may meet
    found = []
    for layer in (ours, oracle):
        leaf = x.clone().requires_grad_()
        output, h = layer(leaf, lengths=lengths)
        (output.square().sum() + h.sum()).backward()
        found.append([output, h, leaf.grad, *[p.grad for p in layer.parameters()]])
    torch.testing.assert_close(*found)
    assert bool(always) is any(lengths)


@pytest.mark.parametrize(
    ("cell", "H", "live", "pays"),
    [("lstm", 256, 0.9, True), ("lstm", 256, 1.0, False), ("lstm", 64, 0.5, True), ("gru", 64, 0.75, False),
     ("lstm", 256, 0.0, False), ("elman", 8, 0.1, False)],
)  # fmt: skip
def test_where_it_pays(cell, H, live, pays):
    """Of few steps beyond the ends, or small products, nothing is copied."""
    mask = torch.zeros(100, 16, dtype=torch.bool)
    mask[: round(100 * live)] = True
    of = {"T": 100, "B": 16, "H": H, "cell": find_cell(cell), "input_weight": torch.empty(1, H)}
    assert (live_rows.live_rows(SimpleNamespace(live=mask, **of)) is not None) is pays
    assert live_rows.live_rows(SimpleNamespace(live=None, **of)) is None

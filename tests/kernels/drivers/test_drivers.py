"""Every cell by every driver against the eager loop and autograd in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gatefuse import cell_names, find_cell
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.task import Request
from gatefuse.kernels.tiling import tiles
from tests.support import made_up_cells
from tests.support.oracle import cast, check, make_task

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
NAMES = ("script", "aten", "llvm", "step", "block", "grid")
# llvm's code is a CPU's
WHERE = [("cpu", name) for name in NAMES]
WHERE += [pytest.param("cuda", name, marks=pytest.mark.gpu) for name in NAMES if name != "llvm"]
everywhere = pytest.mark.parametrize(("device", "name"), WHERE)
OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "reverse": {"reverse": True},
    "lengths": {"lengths": True},
    "resets": {"resets": True},
    "resets to given states": {"resets": True, "fresh": True, "lengths": True, "reverse": True},
    "all": {"lengths": True, "resets": True, "reverse": True, "all_states": True},
    "all forward": {"lengths": True, "resets": True, "all_states": True, "bias": False},
}


def check_here(name: str, task, dtype: torch.dtype, device: str) -> None:
    """Check, or assert that a refusal gives its reason."""
    T, B, H = *task.x.shape[:2], task.weights.recurrent.shape[1]
    why = driver(name).refusal(Request(task.cell, torch.device(device), dtype, T, B, H))
    if why:
        pytest.skip(why)
    check(driver(name), task, dtype, device)


# Those that take longest are for the slow tests; test_layer_norm_cells.py has them too.
LONG = ("layer_norm_lstm", "layer_norm_gru")
CELLS = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in cell_names()]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("cell", CELLS)
@everywhere
def test_every_cell_by_every_driver(device, name, cell, options):
    check_here(name, make_task(find_cell(cell), 4, 3, 7, **options), torch.float32, device)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("cell", cell_names())
@everywhere
def test_dtypes(device, name, cell, dtype):
    check_here(name, make_task(find_cell(cell), 3, 2, 8, all_states=True), dtype, device)


LARGE = pytest.param((2, 5, 200), marks=pytest.mark.slow)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 20), (2, 1, 63), (3, 3, 7), LARGE], ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_first", "peephole_lstm"])
@everywhere
def test_odd_sizes(device, name, cell, shape):
    check_here(name, make_task(find_cell(cell), *shape), torch.float32, device)


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first", "article_peephole_lstm", "slstm"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_grid_s_programs_share_the_weights(device, cell, options):
    """Several programs along the units, several chunks of their weights, several tiles of the batch."""
    check_here("grid", make_task(find_cell(cell), 3, 35, 40, **options), torch.float32, device)


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["resets to given states"]], ids=["plain", "masks"])
@pytest.mark.parametrize("cell", [find_cell("lstm"), find_cell("gru_reset_first"), made_up_cells.three_stages])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_grid_s_programs_share_the_sum_of_a_product_backward(monkeypatch, device, cell, options):
    """As from H 512 on: slices of a sum, some of them empty, and tiles of the batch that take turns."""
    monkeypatch.setattr(tiles, "_SPLIT", 1)
    check_here("grid", make_task(cell, 3, 35, 70, **options), torch.float32, device)


@pytest.mark.slow
@given(
    cell=st.sampled_from(cell_names()),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 24)),
    bias=st.booleans(),
    lengths=st.booleans(),
    resets=st.booleans(),
    fresh=st.booleans(),
    reverse=st.booleans(),
    seed=st.integers(0, 1000),
)
@pytest.mark.parametrize("name", ["script", "aten", "llvm", "step", "block", "grid"])
def test_any_shape(name, cell, shape, **options):
    check_here(name, make_task(find_cell(cell), *shape, **options), torch.float32, "cpu")


@pytest.mark.parametrize("name", ["eager", "script", "aten", "llvm", "step", "block", "grid"])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first"])
def test_an_empty_batch_gives_empty_results(name, cell):
    task = make_task(find_cell(cell), 3, 0, 5)
    outcome = driver(name).run(cast(task, torch.float32))
    assert outcome.sequences[0].shape == (3, 0, 5)
    assert all(s.shape == (0, 5) for s in outcome.finals)


@pytest.mark.parametrize("name", ["eager", "script", "aten", "llvm", "step", "block", "grid"])
def test_not_a_number_flows_through(name):
    task = cast(make_task(find_cell("lstm"), 3, 2, 5), torch.float32)
    task.x.data[1, 0, 0] = torch.nan
    output = driver(name).run(task).sequences[0]
    assert not output[0].isnan().any()
    assert output[1:, 0].isnan().all()
    assert not output[:, 1].isnan().any()


@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_nothing_is_read_before_it_is_written(monkeypatch, name):
    """In debug mode buffers that programs exchange start as NaN."""
    monkeypatch.setenv("GATEFUSE_DEBUG", "1")
    for cell in ("lstm", "gru_reset_first", "slstm"):
        check_here(name, make_task(find_cell(cell), 3, 2, 7, lengths=True, resets=True), torch.float32, "cpu")

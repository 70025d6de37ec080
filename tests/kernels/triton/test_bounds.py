"""No kernel loads or stores beyond the tensors that it was given: every address that a mask lets through is checked."""

import dataclasses

import pytest
import torch

from gatefuse import find_cell
from gatefuse.kernels.drivers.common import run
from gatefuse.kernels.loops.triton import block, grid, step_launches
from gatefuse.kernels.runtime.settings import interpreted
from gatefuse.kernels.triton import (
    block_backward,
    block_forward,
    grid_backward,
    grid_forward,
    step,
    tile,
    tile_backward,
)
from tests.kernels.loops.test_directions import Both
from tests.support import made_up_cells
from tests.support.kernels.guarded_memory import Watch, watching
from tests.support.kernels.kernel_mutants import mutant, put_in
from tests.support.oracle import cast, make_task, results

pytestmark = pytest.mark.skipif(not interpreted(), reason="needs Triton's interpreter: TRITON_INTERPRET=1")
LOOPS = ("step", "block", "grid")
USERS = [step_launches, block, grid, step, block_forward, block_backward, grid_forward, grid_backward, tile_backward]
CELLS = ("lstm", "gru", "gru_reset_first")
# T, B, H: each size of one with each of another.
SIZES = [(1 + (b + h) % 3, B, H) for b, B in enumerate((1, 3, 5)) for h, H in enumerate((5, 17, 33))]
MASKS = {"lengths": True, "resets": True, "fresh": True, "all_states": True}


class ByLoop:
    def __init__(self, name):
        self.name = name

    def run(self, task):
        return run(task, self.name)


def make(cell, *sizes, **options):
    return cast(make_task(find_cell(cell), *sizes, **options), torch.float32)


def watched(driver, task):
    with watching(Watch()) as seen:
        found = results(driver, task)
    return found, seen


@pytest.mark.parametrize(("T", "B", "H"), SIZES)
@pytest.mark.parametrize("loop", LOOPS)
def test_odd_sizes(loop, T, B, H):
    # Each cell with each T, each B and each H.
    cell = CELLS[(B // 2 + 2 * (H // 16)) % 3]
    found, seen = watched(ByLoop(loop), make(cell, T, B, H, **(MASKS if B != 3 else {})))
    assert seen.faults == set()
    assert any("backward" in name for name in seen.launches)
    assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize("loop", ["block", "grid"])
def test_both_directions_of_odd_sizes(loop):
    task, other = (make("gru_reset_first", 2, 3, 17, seed=k, reverse=k == 1, **MASKS) for k in (0, 1))
    _, seen = watched(Both(loop, dataclasses.replace(other, x=task.x)), task)
    assert seen.faults == set()


@pytest.mark.parametrize("loop", LOOPS)
def test_reductions_over_odd_sizes(loop):
    task = cast(make_task(made_up_cells.attending, 2, 3, 33, **MASKS), torch.float32)
    _, seen = watched(ByLoop(loop), task)
    assert seen.faults == set()


def test_guards_do_not_change_results():
    task = make("lstm", 2, 3, 17, **MASKS)
    found, _ = watched(ByLoop("grid"), task)
    assert all(torch.equal(value, found[name]) for name, value in results(ByLoop("grid"), task).items())


# A loop, a module, its change, and what is said of that.
FAULTS = {
    "step: a lane too many": ("step", step, "e < B * H", "e <= B * H", "update_kernel: a store"),
    "step backward: a gate too far": (
        "step", step, "CELL.X[EMITS[k]] * H + u", "CELL.X[EMITS[k]] * H + u + H", "backward_kernel: a store"
    ),
    "block: units that aren't there": (
        "block", block_forward, "real = (u < H) & (b < B)", "real = b < B", "block_forward_kernel: a load"
    ),
    "block backward: samples that aren't there": (
        "block", block_backward, "real = (u < H) & (b < B)", "real = (u < H) & (b <= B)",
        "block_backward_kernel: a load",
    ),
    "weights of units that aren't there": (
        "block", tile, "(gate < CELL.COUNT[p]) & (unit < H) & (k < H)", "(gate < CELL.COUNT[p]) & (k < H)",
        "block_forward_kernel: a load",
    ),
    "a step after the last": (
        "block", tile, "within = as_mask(real & (t >= 0) & (t < T))", "within = as_mask(real & (t >= 0))",
        "block_forward_kernel: a load",
    ),
    "grid: samples that aren't there": (
        "grid", grid_forward, "there = tl.minimum(b, B - 1)", "there = tl.minimum(b, B)",
        "grid_forward_kernel: a load",
    ),
    "grid backward: samples that aren't there": (
        "grid", grid_backward, "there = (row < H - k) & (b < B)", "there = (row < H - k) & (b <= B)",
        "grid_backward_kernel: a load",
    ),
    "grid backward: a partial sum of units that aren't there": (
        "grid", grid_backward, "mask=(n < H) & (b < B))", "mask=(b < B))", "grid_backward_kernel: a store"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_mask_is_found(monkeypatch, tmp_path, name):
    loop, module, old, new, said = FAULTS[name]
    put_in(monkeypatch, mutant(module, [(old, new)], tmp_path), module, USERS)
    _, seen = watched(ByLoop(loop), make("gru", 2, 3, 17))
    assert any(
        fault.startswith(f"{said} must lie within the tensors of the launch. Got an address ") for fault in seen.faults
    ), seen.faults

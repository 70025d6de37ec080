"""Both directions of a layer in one launch, against the eager loop that runs one after the other."""

import dataclasses

import pytest
import torch

from gatefuse import Recurrent, cell_names, find_cell
from gatefuse.kernels.drivers import block, driver, eager, grid
from gatefuse.kernels.loops.triton import block as block_loop
from gatefuse.kernels.task import Outcome, Request
from gatefuse.kernels.tiling import tiles
from tests.support import made_up_cells
from tests.support.oracle import cast, check, errors, make_task, results

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {
    "plain": {},
    "masks": {"lengths": True, "resets": True, "fresh": True, "all_states": True},
    "no bias": {"bias": False, "resets": True},
}


class Pair:
    """A task together with its other direction, in the form that tests/support/oracle.py takes."""

    def __init__(self, other):
        self.other = other

    def tasks(self, task):
        other = cast(self.other, task.x.dtype, task.x.device)
        other = dataclasses.replace(other, x=task.x, lengths=task.lengths, resets=task.resets)
        return (other, task) if task.reverse else (task, other)


class OneByOne(Pair):
    def run(self, task):
        first, second = (eager.run(t) for t in self.tasks(task))
        return Outcome(
            *[tuple(torch.cat(p, -1) for p in zip(*each, strict=True)) for each in zip(first, second, strict=True)]
        )


class Both(Pair):
    def __init__(self, name, other):
        super().__init__(other)
        self.name, self.driver = name, driver(name)

    def run(self, task):
        return self.driver.run_both(self.tasks(task))


def check_both(name, cell, sizes, device, dtype=torch.float32, **options):
    """The gradients of each direction's inputs in turn, and all results of both."""
    pair = [make_task(cell, *sizes, seed=seed, reverse=seed == 1, **options) for seed in (0, 1)]
    for task, other in (pair, pair[::-1]):
        check(Both(name, other), task, dtype, device, OneByOne(other))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "options"),
    [*((cell, "masks") for cell in cell_names()), ("lstm", "plain"), ("lstm", "no bias"), ("gru_reset_first", "plain")],
)
@pytest.mark.parametrize("name", ["block", "grid"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_every_cell_in_both_directions(device, name, cell, options):
    check_both(name, find_cell(cell), (3, 2, 7), device, **OPTIONS[options])


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_grid_s_programs_in_each_direction(monkeypatch, device):
    """Programs that share weights and a product's sum, tiles of the batch that take turns."""
    monkeypatch.setattr(tiles, "_SPLIT", 1)
    check_both("grid", made_up_cells.three_stages, (2, 35, 70), device, resets=True, fresh=True)


def test_half_precision():
    check_both("block", find_cell("lstm"), (3, 2, 8), DEVICE, torch.float16)


@pytest.mark.parametrize("name", ["block", "grid"])
def test_layers_run_both_directions_at_once(monkeypatch, name):
    seen = []
    run_both = driver(name).run_both
    monkeypatch.setattr(driver(name), "run_both", lambda tasks: seen.append(1) or run_both(tasks))
    layers = [Recurrent("gru", 3, 5, 2, bidirectional=True, driver=d, device=DEVICE) for d in (name, "eager")]
    layers[1].load_state_dict(layers[0].state_dict())
    x, reset = torch.randn(4, 2, 3, device=DEVICE), torch.zeros(4, 2, dtype=torch.bool, device=DEVICE)
    reset[2, 1] = True
    got, expected = (layer(x, resets=reset, all_states=True) for layer in layers)
    assert len(seen) == 2
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert got[1].shape == (4, 2, 5)


@pytest.mark.grid
def test_more_programs_than_run_at_once_run_one_after_the_other(monkeypatch):
    seen = []
    monkeypatch.setattr(grid, "both_refusal", lambda request: "too many")
    monkeypatch.setattr(grid, "run_both", lambda tasks: seen.append(1))
    Recurrent("gru", 3, 5, bidirectional=True, driver="grid", device=DEVICE)(torch.zeros(4, 2, 3, device=DEVICE))
    assert not seen


def test_where_one_launch_does_not_fit_steps_run_for_both(monkeypatch):
    from triton.runtime.errors import OutOfResources

    from gatefuse.kernels.loops import registry

    def too_large(*_):
        raise OutOfResources(300_000, 232_448, "shared memory")

    pair = [make_task(find_cell("lstm"), 3, 2, 5, seed=seed, reverse=seed == 1, resets=True) for seed in (0, 1)]
    task, both = cast(pair[0], torch.float32, DEVICE), Both("block", pair[1])
    expected = results(both, task)
    for way in ("forward", "backward"):
        monkeypatch.setattr(block_loop, way, too_large)
    registry._say_once.cache_clear()
    with pytest.warns(RuntimeWarning) as said:
        found = results(both, task)
    assert [str(w.message).partition(" does not fit")[0] for w in said] == [
        f"lstm: the block driver's {way} kernel" for way in ("forward", "backward")
    ]
    assert max(errors(found, expected).values()) < (1e-5 if DEVICE == "cpu" else 2**-8)


def test_gradients_of_both_directions_have_gradients():
    pair = [make_task(find_cell("peephole_lstm"), 3, 2, 4, seed=seed, reverse=seed == 1) for seed in (0, 1)]
    task = cast(pair[0], torch.float32, DEVICE)
    found = []
    for way in (Both("block", pair[1]), OneByOne(pair[1])):
        (d_x,) = torch.autograd.grad(way.run(task).sequences[0].square().sum(), task.x, create_graph=True)
        leaves = [task.x, task.weights.recurrent, *task.weights.parameters]
        found.append(torch.autograd.grad(d_x.square().sum(), leaves))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_block_refuses_both_for_their_number_alone():
    request = Request(find_cell("lstm"), torch.device("cuda"), torch.bfloat16, T=8, B=2**21 - 1, H=128)
    assert block.both_refusal(request) == ""
    assert "number the values of a step" in block.both_refusal(dataclasses.replace(request, B=2**21))

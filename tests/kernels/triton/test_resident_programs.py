"""Grid's kernels in one launch, with all programs at once: the barrier is waited at, in the kernels' own assembly.

Triton's interpreter otherwise runs a launch a part of a step at a time. In whatever order the programs run, results
are to be the same bits as those, which other tests hold to float64; and no access may race with another.
"""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from gatefuse import find_cell
from gatefuse.kernels.drivers.common import run
from gatefuse.kernels.loops.triton import grid
from gatefuse.kernels.runtime.device import Limits
from gatefuse.kernels.tiling import tiles
from gatefuse.kernels.tiling.overrides import trying
from gatefuse.kernels.triton import barrier, grid_backward, grid_forward
from tests.kernels.loops.test_directions import Both
from tests.support.kernels.guarded_memory import watching
from tests.support.kernels.kernel_mutants import mutant, put_in
from tests.support.kernels.resident_programs import AtRandom, First, InTurn, Last, PausedOnArrival, ResidentPrograms
from tests.support.oracle import cast, make_task, results

pytestmark = pytest.mark.skipif(not grid._INTERPRETED, reason="needs Triton's interpreter: TRITON_INTERPRET=1")
MASKS = {"lengths": True, "resets": True, "fresh": True, "all_states": True}
# Units by programs, of 16 units each.
HIDDEN = {2: 20, 3: 33, 4: 50}
SCHEDULES: dict[str, Callable] = {
    "in turn": InTurn, "at random": lambda: AtRandom(0), "the first late": lambda: Last(0),
    "the first early": lambda: First(0), "paused on arrival": PausedOnArrival,
}  # fmt: skip


class Grid:
    def run(self, task):
        return run(task, "grid")


def make(cell, T, B, H, **options):
    return cast(make_task(find_cell(cell), T, B, H, **options), torch.float32)


def at_once(monkeypatch, task, schedule, form="ptx", driver=None):
    """The results of whole launches, by name, and what was seen of them."""
    with monkeypatch.context() as patch, watching(ResidentPrograms(schedule)) as seen:
        patch.setattr(grid, "_INTERPRETED", False)
        patch.setattr(grid, "_form", lambda *_: form)
        found = results(driver or Grid(), task)
    assert seen.launches == ["grid_forward_kernel", "grid_backward_kernel"]
    return found, seen


def differing(found, expected):
    return {name for name, value in expected.items() if not torch.equal(found[name], value)}


def check_at_once(monkeypatch, task, programs, schedules=tuple(SCHEDULES), form="ptx", driver=None):
    """Assert that no access races, and that results are the same bits as those of a launch for each part of a step."""
    expected = results(driver or Grid(), task)
    for name in schedules:
        found, seen = at_once(monkeypatch, task, SCHEDULES[name](), form, driver)
        assert seen.faults == set()
        assert seen.programs == programs
        assert differing(found, expected) == set()
        assert seen.polls or name not in ("the first late", "the first early")  # others did wait


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "programs", "masks"),
    [("lstm", 2, MASKS), ("lstm", 4, {}), ("gru", 3, MASKS), ("gru_reset_first", 2, MASKS), ("gru_reset_first", 4, {})],
)
def test_programs_at_once_give_the_same_bits(monkeypatch, cell, programs, masks):
    check_at_once(monkeypatch, make(cell, 4, 3, HIDDEN[programs], **masks), [programs, programs])


@pytest.mark.parametrize("form", ["every", "portable", "delayed"])
def test_every_form_of_the_barrier(monkeypatch, form):
    task = make("gru_reset_first", 3, 3, HIDDEN[2], **MASKS)
    check_at_once(monkeypatch, task, [2, 2], ["at random", "the first late"], form)


@pytest.mark.parametrize(("cell", "form"), [("lstm", "ptx"), ("gru_reset_first", "every")])
def test_programs_that_share_a_sum(monkeypatch, cell, form):
    with trying("grid", "backward", {"BN": 16, "SLICES": 2, "KC": 16}):
        task = make(cell, 3, 3, HIDDEN[2], **MASKS)
        check_at_once(monkeypatch, task, [2, 4], ["at random", "the first late", "paused on arrival"], form)


@pytest.mark.slow
def test_tiles_that_take_turns(monkeypatch):
    monkeypatch.setattr(tiles, "_batches", lambda B: [16])
    monkeypatch.setattr(grid, "limits", lambda _: Limits(1 << 20, 2))
    # Two programs for three tiles.
    check_at_once(monkeypatch, make("lstm", 3, 35, HIDDEN[2], **MASKS), [2, 2], ["at random", "the first late"])


def test_both_directions_in_one_launch(monkeypatch):
    task, other = (make("gru", 3, 3, HIDDEN[2], seed=k, reverse=k == 1, **MASKS) for k in (0, 1))
    pair = Both("grid", dataclasses.replace(other, x=task.x))
    check_at_once(monkeypatch, task, [4, 4], ["at random", "the first late"], driver=pair)


ARRIVAL = "                if MEETINGS > 0:\n                    arrive(counter, FORM)\n"
STORE = "                states = store_kept("
D_STORE = "                    store_d_slots(d_x_ptr, d_r_ptr, grads, alive, t, u, b, real, B, phase, W, CELL)\n"
D_ARRIVAL = "                    if CELL.PHASES[phase] > 0:\n                        arrive(counter_ptr + tile, FORM)\n"
COUNT = "arrivals = tl.num_programs(0)"
ADD = "@leader red.release.gpu.global.add.u32"
POLL = "{who} ld.acquire.gpu.global.u32"
MEET = "        tl.debug_barrier()\n"
# Of a module its changes.
DEADLOCKS = {
    "a program arrives nowhere": (
        grid_forward, [(ARRIVAL, ARRIVAL.replace("MEETINGS > 0", "MEETINGS > 0 and u0 > 0"))]
    ),
    "a program leaves out one arrival": (
        grid_forward, [(ARRIVAL, ARRIVAL.replace("MEETINGS > 0", "MEETINGS > 0 and (u0 > 0 or i != 1)"))]
    ),
    "one more is awaited than there are": (grid_forward, [(COUNT, COUNT + " + 1")]),
    "one more is awaited backward": (grid_backward, [(COUNT, COUNT + " + 1")]),
    "a program arrives nowhere backward": (
        grid_backward, [(D_ARRIVAL, D_ARRIVAL.replace("> 0:", "> 0 and tl.program_id(0) > 0:"))]
    ),
}  # fmt: skip
# And a schedule under which results are wrong; or none, where no order of whole accesses shows it and races alone tell.
FAULTS = {
    "states stored after the arrival": (
        grid_forward, [(ARRIVAL, ""), (STORE, ARRIVAL + STORE)], "paused on arrival"
    ),
    "gradients stored after the arrival": (
        grid_backward, [(D_STORE, ""), (D_ARRIVAL, D_ARRIVAL + D_STORE)], "paused on arrival"
    ),
    "no wait": (grid_forward, [("wait(counter, met * arrivals, FORM, POLLS)", "pass")], "the first late"),
    "no wait backward": (
        grid_backward, [("wait(counter_ptr + tile, met * arrivals, FORM, POLLS)", "pass")], "the first late"
    ),
    "one too few is awaited": (grid_forward, [(COUNT, COUNT + " - 1")], "the first late"),
    "one too few is awaited backward": (grid_backward, [(COUNT, COUNT + " - 1")], "the first late"),
    "every thread adds": (barrier, [(ADD, ADD.removeprefix("@leader "))], "the first late"),
    "the poll ends too early": (
        barrier, [(f"    {POLL} seen, [$1];\n", "")],
        "the first late",
    ),
    "the arrival releases nothing": (barrier, [(ADD, ADD.replace("release", "relaxed"))], ""),
    "the poll acquires nothing": (barrier, [(POLL, POLL.replace("acquire", "relaxed"))], ""),
    "an arrival for its block alone": (barrier, [(ADD, ADD.replace("gpu", "cta"))], ""),
    "a poll for its block alone": (barrier, [(POLL, POLL.replace("gpu", "cta"))], ""),
    "no block barrier before the arrival": (
        barrier, [(MEET + "        tl.inline_asm_elementwise(_ARRIVE", "        tl.inline_asm_elementwise(_ARRIVE")], ""
    ),
    "no block barrier behind the wait": (
        barrier, [("pack=1)\n" + MEET + "    elif FORM == \"every\"", "pack=1)\n    elif FORM == \"every\"")], ""
    ),
}  # fmt: skip


def small():
    return make("lstm", 3, 3, HIDDEN[2])


@pytest.fixture(scope="module")
def expected():
    """What the small task comes to where nothing is broken."""
    return results(Grid(), small())


def broken(monkeypatch, tmp_path, module, changes):
    """The small task, with a fault put in the kernels that are to run it."""
    made = mutant(module, changes, tmp_path)
    put_in(monkeypatch, made, module, [grid, grid_forward, grid_backward])
    return small()


@pytest.mark.parametrize("name", DEADLOCKS)
def test_an_arrival_too_few_is_found(monkeypatch, tmp_path, name):
    task = broken(monkeypatch, tmp_path, *DEADLOCKS[name])
    with pytest.raises(Exception, match=r"some program must be able to go on. Got a deadlock: .* wait, .*counter_ptr"):
        at_once(monkeypatch, task, InTurn())


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_barrier_is_found(monkeypatch, tmp_path, expected, name):
    module, changes, schedule = FAULTS[name]
    task = broken(monkeypatch, tmp_path, module, changes)
    found, seen = at_once(monkeypatch, task, SCHEDULES[schedule or "in turn"]())
    if schedule:
        assert differing(found, expected)
    else:
        assert not differing(found, expected)
        assert any("races with" in fault for fault in seen.faults)


def test_a_race_is_found_where_no_result_shows_it(monkeypatch, tmp_path):
    """Clocks need no schedule that brings it out."""
    task = broken(monkeypatch, tmp_path, *FAULTS["states stored after the arrival"][:2])
    _, seen = at_once(monkeypatch, task, InTurn())
    assert any("a load must be ordered with what other threads do. Got one of output_ptr" in f for f in seen.faults)


def test_own_states_loaded_before_the_wait_are_found(monkeypatch, tmp_path):
    """Other threads of the program may have stored them."""
    load = "            before = load_carry(carry_ptr, e, B * W, real, S)\n"
    place = "            if MEETINGS > 0:\n                wait("
    task = broken(monkeypatch, tmp_path, grid_forward, [(load, ""), (place, load + place)])
    _, seen = at_once(monkeypatch, task, InTurn())
    assert any("Got one of carry_ptr by program (0, 0, 0) that races with (0, 0, 0)" in f for f in seen.faults)


def test_a_partial_sum_that_is_overwritten_too_early_is_found(monkeypatch, tmp_path):
    """Their addresses are used again in each step."""
    meet = "        wait(counter, target, FORM, POLLS)\n"
    task = broken(monkeypatch, tmp_path, grid_backward, [(meet, "        block_barrier(FORM)\n")])
    with trying("grid", "backward", {"BN": 16, "SLICES": 2, "KC": 16}):
        _, seen = at_once(monkeypatch, task, InTurn())
    assert any("partial_ptr" in fault for fault in seen.faults)

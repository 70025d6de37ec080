"""Trying a change of a loop's pass: it reaches the kernels, computes the same, and leaves nothing behind."""

from threading import Thread

import pytest
import torch

from gatefuse import find_cell
from gatefuse.bench.tuning.variants import RULED_OUT, VARIANTS
from gatefuse.kernels.drivers import common
from gatefuse.kernels.runtime.device import of_arch
from gatefuse.kernels.tiling import overrides, segments, tiles
from gatefuse.kernels.tiling.overrides import trying
from tests.support.oracle import check, make_task

HELD = of_arch("sm_90")
LSTM = find_cell("lstm").program


class ByLoop:
    """A loop in the form that tests/support/oracle.py takes."""

    def __init__(self, name):
        self.name = name

    def run(self, task):
        return common.run(task, self.name)


# What changes code, or the cut: forms of the barrier don't run in the interpreter, nor do warps and stages matter.
CHANGES = [
    ("block", "forward", {"ROWS": "gates"}),
    ("block", "forward", {"BB": 32}),
    ("block", "backward", {"RELAID": False}),
    ("block", "backward", {"AHEAD": True}),
    ("block", "backward", {"AHEAD": True, "RELAID": False}),
    ("grid", "forward", {"BU": 32, "KC": 16, "BB": 32}),
    ("grid", "forward", {"LEFT": "states", "ROWS": "units", "LOADS": ".ca", "FORM": "every"}),
    ("grid", "backward", {"BN": 32, "BB": 32, "FORM": "portable"}),
    ("grid", "backward", {"BN": 64, "SLICES": 2, "KC": 16}),
    ("grid", "backward", {"BU": 8, "BN": 64, "SLICES": 4, "KC": 16}),
    ("grid", "backward", {"SUMS": "gates", "LOADS": ".ca"}),
    ("grid", "backward", {"SUMS": "gates", "BN": 64, "SLICES": 2, "KC": 16}),
]


@pytest.mark.parametrize(
    ("cell", "options"),
    [("lstm", {}), ("gru_reset_first", {"lengths": True, "resets": True, "fresh": True})],
    ids=["lstm", "gru_reset_first with masks"],
)
@pytest.mark.parametrize(("loop", "way", "changes"), CHANGES, ids=str)
def test_what_is_tried_computes_the_same(loop, way, changes, cell, options):
    with trying(loop, way, changes):
        check(ByLoop(loop), make_task(find_cell(cell), 3, 5, 20, **options), torch.float32)


def test_a_change_reaches_the_cut_and_leaves_nothing_behind():
    def forward():
        return tiles.grid_tiles(LSTM, 512, 64, 2, HELD)

    def backward():
        return tiles.grid_backward_tiles(LSTM, 512, 64, 2, HELD)

    before = forward(), backward(), tiles.block_tiles(64), segments.parts(40, False)
    with trying("grid", "forward", {"BU": 32, "warps": 8}):
        cut = forward()
        assert (cut.BU, cut.BB, cut.warps, cut.units) == (32, before[0].BB, 8, 16)
        assert cut.shared == (4 * 32 + cut.BB) * 512 * 2
        assert backward() == before[1]
    with trying("grid", "backward", {"SLICES": 1, "BN": 16, "BB": 16}):
        assert (backward().BU, backward().units, backward().CHUNKS * backward().KC) == (16, 32, 512)
    with (
        trying("grid", "backward", {"BU": 4}),
        pytest.raises(ValueError, match=r"64 programs must own 512 units, BU each. Got BU 4."),
    ):
        backward()
    with trying("block", "backward", {"warps": 8}):
        assert tiles.block_tiles(64, "backward").warps == 8
        assert tiles.block_tiles(64) == before[2]
    with trying("step", "forward", {"LENGTHS": (16,), "LARGEST": 0}):
        assert [part.last - part.first for part in segments.parts(40, False)] == [16, 16, 8]
        assert not segments.worth_recording(40, 1, 1)
        assert segments.worth_recording(40, 1, 1, "backward")
    assert (forward(), backward(), tiles.block_tiles(64), segments.parts(40, False)) == before
    assert not overrides._tried


def test_a_change_is_undone_where_something_is_raised_and_holds_in_other_threads():
    seen = []

    def fail():
        with trying("grid", "forward", {"BU": 32}):
            # Autograd's thread, in which a backward runs on a GPU.
            thread = Thread(target=lambda: seen.append(overrides.tiles("grid", "forward")))
            thread.start()
            thread.join()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [{"BU": 32}]
    assert overrides.tiles("grid", "forward") == overrides.options("grid", "forward") == {}


def test_what_can_t_be_tried_is_refused():
    with pytest.raises(ValueError, match=r"must be of one of block forward, .*, step backward. Got eager forward."):
        trying("eager", "forward", {}).__enter__()
    with pytest.raises(ValueError, match=r"a change of block forward must be one of BB, warps, ROWS, .* Got SLICES."):
        trying("block", "forward", {"SLICES": 2}).__enter__()
    with (
        trying("block", "forward", {"BB": 32}),
        pytest.raises(RuntimeError, match=r"one thing may be tried at a time. Got a second within block forward."),
    ):
        trying("grid", "forward", {}).__enter__()


@pytest.mark.parametrize("variant", VARIANTS + RULED_OUT, ids=lambda variant: variant.name)
def test_every_variant_may_be_tried_and_says_what_is_expected(variant):
    with trying(variant.loop, variant.way, variant.changes):
        assert variant.ratio > 0 or variant in RULED_OUT
        assert variant.why
        for place in variant.places:
            program = find_cell(place.cell).program
            if variant.loop == "grid":
                call = program, place.H, place.B, 2, HELD
                cut = (tiles.grid_tiles if variant.way == "forward" else tiles.grid_backward_tiles)(*call)
                assert cut.shared <= HELD.shared
                assert cut.units <= HELD.programs


def test_no_variant_is_the_unchanged_pass():
    for variant in VARIANTS:
        for place in variant.places:
            if variant.loop != "grid" or not set(variant.changes) <= set(overrides.TILES["grid", variant.way]):
                continue
            cut = tiles.grid_tiles if variant.way == "forward" else tiles.grid_backward_tiles
            call = find_cell(place.cell).program, place.H, place.B, 2, HELD
            with trying(variant.loop, variant.way, variant.changes):
                changed = cut(*call)
            assert changed != cut(*call), f"{variant.name} at {place}"

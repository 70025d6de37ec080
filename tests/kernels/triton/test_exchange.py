"""Values that say themselves that they are there: the same bits as behind the barrier, with all programs at once."""

import dataclasses
import random

import pytest
import torch

from gatefuse import cell, find_cell
from gatefuse.kernels.loops.triton import grid
from gatefuse.kernels.loops.triton.handing import hand
from gatefuse.kernels.tiling.overrides import trying
from gatefuse.kernels.triton import exchange, grid_backward, grid_forward, tile
from tests.kernels.loops.test_directions import Both
from tests.kernels.triton.test_resident_programs import HIDDEN, MASKS, Grid, at_once, check_at_once, make
from tests.support.kernels import ptx
from tests.support.kernels.kernel_mutants import mutant, put_in
from tests.support.kernels.resident_programs import InTurn
from tests.support.oracle import cast, make_task, results

pytestmark = pytest.mark.skipif(not grid._INTERPRETED, reason="needs Triton's interpreter: TRITON_INTERPRET=1")
FLAG = {"FORM": "flag"}
FLOAT, HALF = torch.float32, torch.bfloat16


@cell(gates="n")
def handing_on(x, R, h, c):
    return c, torch.tanh(x.n + R.n(h))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "programs", "masks", "schedules"),
    [
        ("lstm", 2, MASKS, ("in turn", "at random", "the first late", "the first early", "paused on arrival")),
        ("lstm", 4, {}, ("at random", "the first late")),
        ("gru", 3, MASKS, ("at random", "the first late")),
        ("gru_reset_first", 2, MASKS, ("at random", "the first late", "the first early")),
    ],
)
def test_programs_at_once_give_the_same_bits(monkeypatch, cell, programs, masks, schedules):
    with trying("grid", "forward", FLAG):
        check_at_once(monkeypatch, make(cell, 4, 3, HIDDEN[programs], **masks), [programs, programs], schedules)


def test_both_directions_in_one_launch(monkeypatch):
    task, other = (make("gru", 3, 3, HIDDEN[2], seed=k, reverse=k == 1, **MASKS) for k in (0, 1))
    with trying("grid", "forward", FLAG):
        pair = Both("grid", dataclasses.replace(other, x=task.x))
        check_at_once(monkeypatch, task, [4, 4], ["at random", "the first late"], driver=pair)


def broken(monkeypatch, tmp_path, module, *change):
    made = mutant(module, [change], tmp_path)
    put_in(monkeypatch, made, module, [grid, grid_forward, grid_backward, tile])


def test_a_store_left_out_is_a_deadlock(monkeypatch, tmp_path):
    broken(monkeypatch, tmp_path, exchange, "there = (mask != 0).to(tl.int32)", "there = (mask != mask).to(tl.int32)")
    with (
        trying("grid", "forward", FLAG),
        pytest.raises(Exception, match=r"some program must be able to go on. Got a deadlock: .* at output_ptr"),
    ):
        at_once(monkeypatch, make("lstm", 3, 3, HIDDEN[2]), InTurn())


def with_the_pattern():
    """A task whose output becomes the pattern: an initial state that is handed on as it is."""
    task = cast(make_task(handing_on, 3, 3, HIDDEN[2]), torch.float32)
    states = tuple(s.detach().clone() for s in task.states)
    states[1].view(torch.int32)[1] = -1
    return dataclasses.replace(task, states=tuple(s.requires_grad_() for s in states))


def test_a_fill_left_out_is_found(monkeypatch):
    monkeypatch.setattr(grid, "fill", lambda tensors: [tensor.zero_() for tensor in tensors])
    with trying("grid", "forward", FLAG):
        _, seen = at_once(monkeypatch, make("lstm", 3, 3, HIDDEN[2]), InTurn())
    assert any("what is waited for must be stored once. Got an address with a value." in f for f in seen.faults)


@pytest.mark.parametrize(("dtype", "value"), [(FLOAT, -1), (HALF, -1), (torch.float16, -1)])
def test_every_element_is_filled_with_all_bits(dtype, value):
    held = torch.zeros(2, 3, dtype=dtype)
    grid.fill((held, held[:0]))
    assert held.isnan().all()
    assert held.view({2: torch.int16, 4: torch.int32}[dtype.itemsize]).eq(value).all()


class Still:
    """Memory that nobody changes."""

    def __init__(self, word):
        self.word, self.polls = word, 0

    def load(self, address, acquires, thread, into, size):
        self.polls += 1
        return self.word


@pytest.mark.parametrize(("H", "words"), [(20, 4), (18, 2), (33, 1)])
def test_what_never_comes_ends_in_a_trap_and_what_is_there_is_taken(H, words):
    text = hand(find_cell("lstm"), FLOAT, H, 128 * words, 128, 5).LOAD
    never, there = Still(2**32 - 1), Still(7)
    with pytest.raises(ptx.TrapError):
        ptx.run(text, [64, 1], never, 0, words)
    assert never.polls == 5 * words
    assert ptx.run(text, [64, 1], there, 0, words) == [7] * words
    # An initial state may be the pattern.
    assert ptx.run(text, [64, 0], never, 0, words) == [2**32 - 1] * words


class Halves:
    """Memory of 16-bit numbers from address 64 on, of which those that are missing come at the second look."""

    def __init__(self, first, then):
        self.first, self.then, self.looks = first, then, {}

    def load(self, address, acquires, thread, into, size):
        assert size == 2
        k = (address - 64) // 2
        self.looks[k] = self.looks.get(k, 0) + 1
        return (self.first if self.looks[k] == 1 else self.then)[k]


EDGES = (0, 1, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFF7F)


@pytest.mark.parametrize(("H", "lanes"), [(20, 4), (18, 2), (33, 1)])
@pytest.mark.parametrize("loads", [1, 2])
def test_halves_are_waited_for_one_by_one(H, lanes, loads):
    made = hand(find_cell("lstm"), HALF, H, 128 * lanes * loads, 128, 9)
    assert (lanes, loads) == (made.LANES, made.PACK)
    count = lanes * loads
    draw = random.Random(0)
    for missing in [(), *((k,) for k in range(count)), tuple(range(count))]:
        for _ in range(20):
            then = [draw.choice(EDGES) for _ in range(count)]
            memory = Halves([0xFFFF if k in missing else value for k, value in enumerate(then)], then)
            operands = [64 + 2 * lanes * j for j in range(loads)] + [1] * loads
            words = ptx.run(made.LOAD, operands, memory, 0, made.WORDS * loads)
            assert set(memory.looks.values()) == {2 if missing else 1}
            found = [words[w * loads + j] >> 16 * half & 0xFFFF for j in range(loads)
                     for w in range(made.WORDS) for half in range(min(lanes, 2))]  # fmt: skip
            assert found == then


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first"])
def test_programs_at_once_give_the_same_bits_in_16(monkeypatch, cell):
    task = cast(make_task(find_cell(cell), 3, 3, HIDDEN[2], **MASKS), torch.float16)
    with trying("grid", "forward", FLAG):
        check_at_once(monkeypatch, task, [2, 2], ("at random", "the first late"))


def test_what_it_can_t_do_is_refused():
    with pytest.raises(ValueError, match=r"float32, bfloat16 or float16. Got torch.float64."):
        hand(find_cell("lstm"), torch.float64, 20, 1024, 128, 0)
    with pytest.raises(ValueError, match=r"a cell that reduces nothing over its units. Got layer_norm_lstm."):
        hand(find_cell("layer_norm_lstm"), FLOAT, 20, 1024, 128, 0)


def test_a_state_that_is_the_pattern_is_stored_as_another(monkeypatch, tmp_path):
    def run():
        with trying("grid", "forward", FLAG):
            return at_once(monkeypatch, with_the_pattern(), InTurn())

    expected = results(Grid(), with_the_pattern())
    found, seen = run()
    assert seen.faults == set()
    assert all(torch.equal(found[name].isnan(), value.isnan()) for name, value in expected.items())
    assert any(value.isnan().any() for value in found.values())
    broken(monkeypatch, tmp_path, exchange, "return tl.where(bits == -1, HAND.QUIET, bits)", "return bits")
    with pytest.raises(Exception, match=r"Got a deadlock"):
        run()

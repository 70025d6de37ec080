"""The grid's barrier as a model: no load sees another step's value in any order of steps, and none waits forever."""

import re

import pytest

from gatefuse.kernels.triton import barrier
from tests.support.kernels.barrier_model import Form, backward, faults, flags, forward


def orders(text, name):
    """The order of a PTX instruction on global memory, among all of a GPU's programs."""
    (order,) = re.findall(rf"{name}\.(\w+)\.gpu\.global", text.value)
    return order


def form(wait, **parts):
    """The form with the orders that the kernels' assembly has."""
    releases, acquires = orders(barrier._ARRIVE, "red") == "release", orders(wait, "ld") == "acquire"
    return Form(releases, acquires, **parts)


LEADER = form(barrier._WAIT)
EVERY = form(barrier._WAIT_EVERY, meets_after=False, every_polls=True)
# Programs and steps; own states and partial sums use their addresses again from the second step on.
FORWARD = [(2, 3), (3, 2)]
BACKWARD = [(2, 3), (3, 1)]


@pytest.mark.parametrize("sizes", FORWARD, ids=str)
def test_forward_no_load_is_stale_and_nobody_waits_forever(sizes):
    found, states = faults(forward(*sizes, LEADER))
    assert found == set()
    assert states > 1000


@pytest.mark.parametrize("sizes", BACKWARD, ids=str)
def test_backward_no_load_is_stale_and_nobody_waits_forever(sizes):
    found, states = faults(backward(*sizes, LEADER))
    assert found == set()
    assert states > 1000


def test_where_every_thread_polls_the_own_states_need_a_barrier_before():
    """Which is why the kernels have one in that form."""
    assert faults(forward(2, 3, EVERY._replace(meets_between=True)))[0] == set()
    assert faults(backward(2, 2, EVERY))[0] == set()
    assert faults(forward(2, 3, EVERY))[0] == {f"a load of own {p} may see another step's value" for p in (0, 1)}


@pytest.mark.parametrize("programs", [2, 3])
@pytest.mark.parametrize("way", [forward, backward])
@pytest.mark.parametrize("part", ["releases", "acquires", "meets_before", "meets_after"])
def test_every_part_of_it_is_needed(way, part, programs):
    found, _ = faults(way(programs, 1, LEADER._replace(**{part: False})))
    assert any(fault.startswith("a load of ") for fault in found)


@pytest.mark.parametrize("programs", [2, 3])
@pytest.mark.parametrize("way", [forward, backward])
def test_an_arrival_too_few_is_a_deadlock(way, programs):
    threads = way(programs, 2 if programs == 2 else 1, LEADER)
    arrivals = [k for k, instruction in enumerate(threads[0]) if instruction[0] == "add"]
    del threads[0][arrivals[-1]]
    assert "deadlock" in faults(threads)[0]


@pytest.mark.parametrize("programs", [2, 3])
@pytest.mark.parametrize(("way", "stored"), [(forward, "state 0 1"), (backward, "gates 0 1")])
def test_a_store_after_the_arrival_is_stale(way, stored, programs):
    threads = way(programs, 1, LEADER)
    store = threads[1].index(("store", stored, 1))
    threads[1].insert(store + 1, threads[1].pop(store))  # behind the block barrier, which comes before the arrival
    assert any(stored in fault for fault in faults(threads)[0])


@pytest.mark.parametrize("way", [forward, backward])
def test_a_target_too_low_is_stale(way):
    threads = [[(*i[:2], i[2] - 1, i[3]) if i[0] == "poll" else i for i in thread] for thread in way(3, 1, LEADER)]
    assert any(fault.startswith("a load of ") for fault in faults(threads)[0])


def test_a_sum_s_second_barrier_is_needed():
    """Partial sums have one address for all steps: without the wait for the others, a step's may be the next one's."""
    threads = [[i for i in thread if i[0] != "poll" or i[2] % 4] for thread in backward(2, 3, LEADER)]
    assert any("sum" in fault for fault in faults(threads)[0])


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1)], ids=str)
def test_values_that_say_that_they_are_there_need_no_barrier_among_programs(sizes):
    found, states = faults(flags(*sizes))
    assert found == set()
    assert states > 100


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1)], ids=str)
def test_values_that_say_that_they_are_there_need_a_fill(sizes):
    found, _ = faults(flags(*sizes), {"state 0 1": 9})
    assert found == {"a load of state 0 1 may see another step's value"}


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1)], ids=str)
def test_a_value_that_is_the_pattern_is_waited_for_forever(sizes):
    threads = [[("store", i[1], 0) if i[:2] == ("store", "state 0 1") else i for i in t] for t in flags(*sizes)]
    assert "deadlock" in faults(threads)[0]


def test_a_value_needs_an_address_of_its_own():
    assert any("state" in fault for fault in faults(flags(2, 2, addresses=1))[0])


def test_a_program_s_own_states_need_its_block_barrier():
    assert any(fault.startswith("a load of own") for fault in faults(flags(2, 2, meets=False))[0])

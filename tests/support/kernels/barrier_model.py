"""The grid's barrier as a small model, of which every order of steps is tried: what may each load see?

Memory is a list of messages for each address, in the order of its stores. A thread has a view, the oldest message of
each address that it may still see; it sees that one or any later one, whichever is worse. So a store alone tells nobody
anything. Views are handed on in the ways in which PTX makes causality: a release attaches its thread's view to the
message that it writes, and an atomic addition that of the message that it adds to; an acquire that reads the message
joins that view to its own; a block barrier joins those of its program's threads. Threads run their instructions in
order, and a load sees nothing that is stored later.

Each program has two threads: the leader, which arrives and polls, and another. Instructions are tuples:

    ("store", address, value)         ("load", address, value)       which must see that value and no other
    ("add", address, releases)        ("poll", address, count, acquires)       until it sees so many
    ("meet",)                         the program's block barrier
    ("await", address, value)         until it sees anything but 0, which must be that value; nothing is acquired
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

Instruction = tuple[Any, ...]
NOTHING: Mapping[str, int] = MappingProxyType({})


class Form(NamedTuple):
    """What the barrier is made of; see kernels/triton/barrier.py."""

    releases: bool = True
    acquires: bool = True
    meets_before: bool = True
    meets_after: bool = True
    every_polls: bool = False
    meets_between: bool = False  # a block barrier of the kernel's own before each wait

    def arrive(self) -> tuple[list[Instruction], list[Instruction]]:
        """The leader's and the other thread's instructions."""
        meets = [("meet",)] * self.meets_before
        return [*meets, ("add", "counter", self.releases)], [*meets]

    def wait(self, count: int) -> tuple[list[Instruction], list[Instruction]]:
        poll, meets = ("poll", "counter", count, self.acquires), [("meet",)] * self.meets_after
        between = [("meet",)] * self.meets_between
        return [*between, poll, *meets], [*between, *([poll] if self.every_polls else []), *meets]


class _State(NamedTuple):
    places: tuple[int, ...]  # each thread's next instruction
    views: tuple[tuple[int, ...], ...]  # by thread and address, its oldest visible message
    memory: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]  # by address its messages: a value and a view


def faults(threads: list[list[Instruction]], began: Mapping[str, int] = NOTHING) -> tuple[set[str], int]:
    """What may go wrong in some order of two threads a program, and how many states were looked at.

    Memory begins at 0, which whoever awaits takes for nothing, or as ``began`` says by address.

    A load changes nothing and sees the more, the later it comes; so it is tried right before its thread's next other
    instruction alone, or at the end. A block barrier that no load waits for is passed at once: it changes no memory.
    """
    addresses = sorted({i[1] for thread in threads for i in thread if len(i) > 1})
    code = [[(i[0], *([addresses.index(i[1])] if len(i) > 1 else []), *i[2:]) for i in thread] for thread in threads]
    none = (0,) * len(addresses)
    first = _State((0,) * len(code), (none,) * len(code), tuple(((began.get(a, 0), none),) for a in addresses))
    seen, stack, found = {first}, [first], set[str]()
    while stack:
        state = stack.pop()
        following = list(_following(code, state, found, addresses))
        if not following:
            ends = [_after_loads(code, state, k, found, addresses) for k in range(len(code))]
            if any(end < len(c) for end, c in zip(ends, code, strict=True)):
                found.add("deadlock")
        for each in following:
            if each not in seen:
                seen.add(each)
                stack.append(each)
    return found, len(seen)


def _after_loads(code: list[list[Instruction]], state: _State, k: int, found: set[str], addresses: list[str]) -> int:
    """The place of a thread's next instruction that is no load, and what is wrong with what the loads see now."""
    place = state.places[k]
    while place < len(code[k]) and code[k][place][0] == "load":
        _, at, value = code[k][place]
        if {seen for seen, _ in state.memory[at][state.views[k][at] :]} != {value}:
            found.add(f"a load of {addresses[at]} may see another step's value")
        place += 1
    return place


def _following(code: list[list[Instruction]], state: _State, found: set[str], addresses: list[str]) -> Iterator[_State]:
    places = [
        next((j for j in range(p, len(c)) if c[j][0] != "load"), len(c))
        for c, p in zip(code, state.places, strict=True)
    ]
    meeting = [place < len(c) and c[place][0] == "meet" for c, place in zip(code, places, strict=True)]
    for k in range(0, len(code), 2):
        if meeting[k] and meeting[k + 1] and places[k : k + 2] == list(state.places[k : k + 2]):
            yield _met(state, k, places)
            return
    for k, (instructions, place, view) in enumerate(zip(code, places, state.views, strict=True)):
        if place == len(instructions):
            continue
        name, *operands = instructions[place]
        at = operands[0] if operands else 0
        messages = state.memory[at]
        after: list[_State] = []
        if name == "meet":
            if k % 2 == 0 and meeting[k + 1]:
                _after_loads(code, state, k + 1, found, addresses)
                after.append(_met(state, k, places))
        elif name == "poll":
            for stamp in range(view[at], len(messages)):
                value, handed = messages[stamp]
                if value >= operands[1]:
                    now = _replaced(view, at, stamp)
                    after.append(_moved(state, k, place, _join(now, handed) if operands[2] else now))
        elif name == "await":
            for stamp in range(view[at], len(messages)):
                if value := messages[stamp][0]:
                    if value != operands[1]:
                        found.add(f"a load of {addresses[at]} may see another step's value")
                    after.append(_moved(state, k, place, _replaced(view, at, stamp)))
        else:
            now = _replaced(view, at, len(messages))
            value, handed = operands[1], (0,) * len(view)
            if name == "add":
                value, handed = messages[-1][0] + 1, messages[-1][1]
                handed = _join(handed, now) if operands[1] else handed
            memory = _replaced(state.memory, at, (*messages, (value, handed)))
            after.append(_moved(state, k, place, now)._replace(memory=memory))
        if after:
            _after_loads(code, state, k, found, addresses)
        yield from after


def _met(state: _State, k: int, places: list[int]) -> _State:
    joined = _join(state.views[k], state.views[k + 1])
    return _moved(_moved(state, k, places[k], joined), k + 1, places[k + 1], joined)


def _moved(state: _State, k: int, place: int, view: tuple[int, ...]) -> _State:
    return state._replace(places=_replaced(state.places, k, place + 1), views=_replaced(state.views, k, view))


def _join(a: Iterable[int], b: Iterable[int]) -> tuple[int, ...]:
    return tuple(map(max, a, b))


def _replaced(values: tuple, k: int, value: Any) -> tuple:
    return (*values[:k], value, *values[k + 1 :])


def forward(programs: int, steps: int, form: Form) -> list[list[Instruction]]:
    """As grid_forward: states exchanged at an address a step, and one's own, at an address for all steps."""
    threads: list[list[Instruction]] = []
    for p in range(programs):
        leader: list[Instruction] = []
        other: list[Instruction] = []
        for t in range(steps + 1):
            if t > 0:
                for thread, more in zip((leader, other), form.wait(t * programs), strict=True):
                    thread += more
                leader.append(("load", f"own {p}", t))
                for thread in (leader, other):
                    thread += [("load", f"state {q} {t}", 1) for q in range(programs) if q != p]
            if t < steps:
                other.append(("store", f"state {p} {t + 1}", 1))
                for thread, more in zip((leader, other), form.arrive(), strict=True):
                    thread += more
                other.append(("store", f"own {p}", t + 1))
        threads += [leader, other]
    return threads


def flags(programs: int, steps: int, addresses: int = 0, meets: bool = True) -> list[list[Instruction]]:
    """As grid_forward where states say themselves that they are there; after so many steps addresses come again."""
    threads: list[list[Instruction]] = []
    for p in range(programs):
        leader: list[Instruction] = []
        other: list[Instruction] = []
        for t in range(steps + 1):
            if t > 0:
                for thread in (leader, other):
                    thread += [("meet",)] * meets
                leader.append(("load", f"own {p}", t))
                for thread in (leader, other):
                    thread += [("await", _flag(q, t, addresses), t) for q in range(programs)]
            if t < steps:
                # What the one has loaded comes to the other, which stores what becomes of it, through shared memory.
                for thread in (leader, other):
                    thread.append(("meet",))
                other += [("store", _flag(p, t + 1, addresses), t + 1), ("store", f"own {p}", t + 1)]
        threads += [leader, other]
    return threads


def _flag(p: int, t: int, addresses: int) -> str:
    return f"state {p} {t % addresses if addresses else t}"


def backward(programs: int, steps: int, form: Form) -> list[list[Instruction]]:
    """As grid_backward where programs share a sum: partial sums are stored at the same address in each step."""
    threads: list[list[Instruction]] = []
    for p in range(programs):
        leader: list[Instruction] = []
        other: list[Instruction] = []

        def meeting(count, leader=leader, other=other):
            for half in (form.arrive(), form.wait(count * programs)):
                leader += half[0]
                other += half[1]

        for t in range(1, steps + 1):
            other.append(("store", f"gates {p} {t}", 1))
            meeting(2 * t - 1)
            other += [("load", f"gates {q} {t}", 1) for q in range(programs) if q != p]
            other.append(("store", f"sum {p}", t))
            meeting(2 * t)
            for thread in (leader, other):
                thread += [("load", f"sum {q}", t) for q in range(programs) if q != p]
        threads += [leader, other]
    return threads

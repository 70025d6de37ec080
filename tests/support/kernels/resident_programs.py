"""All programs of a launch at once in Triton's interpreter, as on a GPU: each in a thread of its own, one running at a
time, and before each access to memory a schedule says which. So every run of a schedule is the same.

A program that polls in vain sleeps until what it polls changes; where all sleep, that is a deadlock, at once. Besides,
vector clocks find each access that no release and acquire puts in order: see happened_before.py.
"""

from __future__ import annotations

import random
import threading

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from tests.support.kernels import ptx
from tests.support.kernels.guarded_memory import BUILDER, Watch
from tests.support.kernels.happened_before import LEADER, LOADS, STORES, Clocks

# What an exchange without a barrier is filled with, by bytes of an element.
MISSING = {4: 2**32 - 1, 2: 2**16 - 1}
PATIENCE = 60  # seconds that a launch may take


class InTurn:
    """Each for one access, one after the other."""

    def choose(self, ready, last):
        return min(ready, key=lambda k: (k <= last, k))

    def arrived(self, program):
        pass


class AtRandom(InTurn):
    def __init__(self, seed):
        self._random = random.Random(seed)

    def choose(self, ready, last):
        return self._random.choice(ready)


class Last(InTurn):
    """One program runs only where no other can: what others want of it is late."""

    def __init__(self, program):
        self._late = program

    def choose(self, ready, last):
        return min(ready, key=lambda k: (k == self._late, k))


class First(InTurn):
    """One program runs wherever it can: what it wants of others is late."""

    def __init__(self, program):
        self._early = program

    def choose(self, ready, last):
        return min(ready, key=lambda k: (k != self._early, k))


class PausedOnArrival(InTurn):
    """Who has just arrived runs only where no other can: what it stores after that is late."""

    def __init__(self):
        self._arrivals = {}

    def choose(self, ready, last):
        return min(ready, key=lambda k: (self._arrivals.get(k, 0), k))

    def arrived(self, program):
        self._arrivals[program] = max(self._arrivals.values(), default=0) + 1


class _Program:
    def __init__(self, place, call):
        self.place, self.call = place, call
        self.go = threading.Semaphore(0)
        self.over = False
        # By thread, register and address what it polled since it did anything else; by address what it sleeps on.
        self.looked: dict[tuple[int, str, int], int] = {}
        self.sleeps: dict[int, int] = {}


class _StoppedError(Exception):
    """Another program failed."""


class ResidentPrograms(Watch):
    """Launches run by a schedule; ``faults`` has what raced, too, ``polls`` is how often a program slept, and
    ``programs`` how many each launch had."""

    def __init__(self, schedule):
        super().__init__()
        self.polls = 0
        self.programs: list[int] = []
        self._schedule = schedule
        self._programs: list[_Program] = []
        self._current = -1

    def run(self, calls):
        self._programs = [_Program(*call) for call in calls]
        self.programs.append(len(calls))
        self._clocks = Clocks(len(calls), self.memory.size)
        self._failure, self._current = None, -1
        threads = [threading.Thread(target=self._body, args=(p,), daemon=True) for p in self._programs]
        for thread in threads:
            thread.start()
        self._pass_on()
        for thread in threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise TimeoutError(f"a launch must end within {PATIENCE} s. Got one that goes on.")
        if self._failure:
            raise self._failure

    def _body(self, program):
        program.go.acquire()
        try:
            if not self._failure:
                program.call()
            program.over = True
            self._pass_on()
        except BaseException as fault:
            self._failure = self._failure or fault
            for each in self._programs:
                each.go.release()

    def _ready(self, program):
        return not program.over and (not program.sleeps or self._changed(program.sleeps))

    def _changed(self, seen):
        return any(self.memory.word(*at) != value for at, value in seen.items())

    def _pass_on(self):
        """Let the schedule's choice run; whether it is another than the one that ran."""
        ready = [k for k, program in enumerate(self._programs) if self._ready(program)]
        if not ready:
            if asleep := [program for program in self._programs if not program.over]:
                place, ((address, _), seen) = asleep[0].place, next(iter(asleep[0].sleeps.items()))
                where = self.memory.name(int(address) - self.memory.first)
                raise RuntimeError(
                    f"some program must be able to go on. Got a deadlock: {len(asleep)} of {len(self._programs)} wait, "
                    f"{place} at {where}, where {seen} have arrived."
                )
            return False
        chosen = self._schedule.choose(ready, self._current)
        moved, self._current = chosen != self._current, chosen
        BUILDER.set_grid_idx(*self._programs[chosen].place)
        if moved:
            self._programs[chosen].go.release()
        return moved

    def pause(self):
        """A place where another program may go on."""
        me = self._programs[self._current]
        if self._pass_on():
            me.go.acquire()
            if self._failure:
                raise _StoppedError

    def access(self, kind, pointers, size):
        self.pause()
        me = self._current
        self._programs[me].looked = {}
        inside = super().access(kind, pointers, size)
        at = self.memory.offsets(pointers[inside])
        if raced := getattr(self._clocks, kind)(me, at):
            offset, other = raced
            mine, theirs = self._programs[me].place, self._programs[other].place
            self.faults.add(
                f"{self.launches[-1]}: a {kind} must be ordered with what other threads do. Got one of "
                f"{self.memory.name(offset)} by program {mine} that races with {theirs}."
            )
        return inside

    def special(self, name):
        return BUILDER.grid_idx["xyz".index(name.removeprefix("%ctaid."))]

    def load(self, address, acquires, thread, into="", size=4):
        """A number of so many bytes as one thread sees it; who finds all that it polls as it was, with nothing done in
        between, sleeps."""
        self.pause()
        k, me = self._current, self._programs[self._current]
        if (thread, into, (address, size)) in me.looked:
            seen = {at: value for (*_, at), value in me.looked.items()}
            if not self._changed(seen):
                self.polls += 1
                me.sleeps = seen
                self.pause()
            me.looked, me.sleeps = {}, {}
        me.looked[thread, into, (address, size)] = self.memory.word(address, size)
        if acquires:
            for part in (LEADER,) if thread == 0 else (STORES, LOADS):
                self._clocks.acquire(k, part, address)
        return self.memory.word(address, size)

    def store(self, address, value, size=4):
        """A value that others may be waiting for: once, and never what they take for none."""
        self.pause()
        if self.access_outside(address, size):
            return
        where = f"{self.launches[-1]}: {self.memory.name(int(address - self.memory.first))}"
        if self.memory.word(address, size) != MISSING[size]:
            self.faults.add(f"{where}: what is waited for must be stored once. Got an address with a value.")
        if value == MISSING[size]:
            self.faults.add(f"{where}: what is stored must not be the pattern. Got it.")
        self.memory.put(address, value, size)

    def access_outside(self, address, size):
        return not Watch.access(self, "store", np.array([address]), size).all()

    def add(self, address, value, releases, thread):
        self.pause()
        self._programs[self._current].looked = {}
        if releases:
            for part in (LEADER,) if thread == 0 else (STORES, LOADS):
                self._clocks.release(self._current, part, address)
        self.memory.add(address, value)
        self._schedule.arrived(self._current)

    def hooks(self):
        return super().hooks() | {
            "create_barrier": lambda: self._clocks.meet(self._current),
            "create_inline_asm": self._assembly,
            "create_atomic_rmw": self._atomic,
        }

    def _assembly(self, text, constraints, values, types, pure, pack):
        if any(value.data.size > 1 for value in values):
            return self._elementwise(text, constraints, values, pack)
        self._programs[self._current].looked = {}
        operands = [int(value.data.item()) for value in values]
        # The leader, and one of the others for all of them.
        found = [ptx.run(text, operands, self, thread) for thread in (0, 1)]
        return _Results(*[BUILDER.get_int32(number) for number in found[0]])

    def _elementwise(self, text, constraints, values, pack):
        """A thread for so many elements as one call takes, one thread after the other."""
        shape = values[0].data.shape
        columns = [np.broadcast_to(value.data, shape).reshape(-1, pack).tolist() for value in values]
        count = sum(each.startswith("=") for each in constraints.split(","))
        found = []
        for operands in zip(*columns, strict=True):
            self._programs[self._current].looked = {}
            numbers = [int(number) & 2**64 - 1 for part in operands for number in part]
            found.append([number & 2**32 - 1 for number in ptx.run(text, numbers, self, 0, count)])
        made = np.array(found, np.uint32).view(np.int32).reshape(-1, count // pack, pack)
        return _Results(*[
            interpreter.TensorHandle(np.ascontiguousarray(made[:, k]).reshape(shape), tl.int32)
            for k in range(count // pack)
        ])  # fmt: skip

    def _atomic(self, how, pointer, value, mask, order, scope):
        address, by = int(pointer.data.item()), int(value.data.item())
        seen = self.memory.word(address)
        ordered = "CTA" not in str(scope)
        if by:
            self.add(address, by, ordered and "RELEASE" in str(order), 0)
        else:
            seen = self.load(address, ordered and "ACQUIRE" in str(order), 0)
            # One thread asks and tells the others through shared memory, with a block barrier of Triton's own.
            self._clocks.meet(self._current)
        return interpreter.TensorHandle(value.data * 0 + seen, value.dtype)


class _Results:
    def __init__(self, *values):
        self._values = values

    def get_result(self, k):
        return self._values[k]

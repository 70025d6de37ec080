"""Which accesses of a launch happened before which others, by vector clocks: what no order makes certain is a race.

An access that another one's order rests on luck with is found in whatever order the programs have run. A program has
three parts here: its leader, which arrives and polls; all that is stored; all that is loaded. So two parts meet only at
a block barrier, as if Triton gave a value's store and its load to different threads, which it may. Programs meet only
where one acquires what another released. Within a program, a store may follow a load at once: it holds what was loaded.
"""

import numpy as np

LEADER, STORES, LOADS = range(3)
PARTS = 3


class Clocks:
    """The clocks of a launch's programs, and the last accesses to each of its memory's ``size`` bytes."""

    def __init__(self, programs: int, size: int):
        parts = PARTS * programs
        # Row k: how much of each part's doing has happened before what part k does next.
        self._now = np.eye(parts, dtype=np.int32)
        self._released: dict[int, np.ndarray] = {}
        self._writer = np.zeros(size, np.int32)
        self._written = np.zeros(size, np.int32)
        self._read = np.zeros((programs, size), np.int32)

    def meet(self, program: int) -> None:
        """A block barrier: what each part did happened before what all do next."""
        parts = slice(PARTS * program, PARTS * (program + 1))
        self._now[parts] = self._now[parts].max(0)
        for part in range(PARTS * program, PARTS * (program + 1)):
            self._now[part, part] += 1

    def release(self, program: int, part: int, address: int) -> None:
        """What happened before this is handed to those who acquire at the address from here on."""
        k = PARTS * program + part
        self._released[address] = np.maximum(self._released.get(address, 0), self._now[k])
        self._now[k, k] += 1

    def acquire(self, program: int, part: int, address: int) -> None:
        """What was released at the address happened before what this part does next."""
        k = PARTS * program + part
        self._now[k] = np.maximum(self._now[k], self._released.get(address, 0))

    def load(self, program: int, at: np.ndarray) -> tuple[int, int] | None:
        """A load of the values that begin at these bytes; one that races with a store, and the storing program."""
        k = PARTS * program + LOADS
        early = self._written[at] > self._now[k, self._writer[at]]
        self._read[program, at] = self._now[k, k]
        return self._first(early, at)

    def store(self, program: int, at: np.ndarray) -> tuple[int, int] | None:
        """A store; as load, and one that races with another program's load, and the loading program."""
        k = PARTS * program + STORES
        early = self._written[at] > self._now[k, self._writer[at]]
        found = self._first(early & (self._writer[at] != k), at)
        for other in range(len(self._read)):
            late = self._read[other, at] > self._now[k, PARTS * other + LOADS]
            if other != program and late.any() and not found:
                found = int(at[late][0]), other
        self._writer[at] = k
        self._written[at] = self._now[k, k]
        return found

    def _first(self, racing: np.ndarray, at: np.ndarray) -> tuple[int, int] | None:
        if not racing.any():
            return None
        found = int(at[racing][0])
        return found, int(self._writer[found]) // PARTS

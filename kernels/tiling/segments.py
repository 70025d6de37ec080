"""How the step driver cuts a sequence into parts that can be recorded; nothing here brings Triton."""

from __future__ import annotations

from typing import NamedTuple

from gatefuse.kernels.tiling import overrides

# Steps of a recorded part; what remains is launched.
LENGTHS = (32, 8)
# Values of a state, B * H, up to which recording is expected to pay its copies. Counted, not measured: for an LSTM in
# 16 bits a step's copies move 40 bytes a value, 4 microseconds' worth at this size and 2.5 TB/s, where the host takes
# some 15 to start the step's kernels.
LARGEST = 2**18


class Part(NamedTuple):
    """The steps from first to last - 1; recorded, or launched one by one."""

    first: int
    last: int
    recorded: bool

    @property
    def steps(self) -> slice:
        return slice(self.first, self.last)


def parts(T: int, reverse: bool, way: str = "forward") -> list[Part]:
    """A sequence's parts, in the order in which they run forward."""
    found, done = [], 0
    for length in overrides.tiles("step", way).get("LENGTHS", LENGTHS):
        while T - done >= length:
            found.append(Part(done, done + length, True))
            done += length
    if done < T:
        found.append(Part(done, T, False))
    return [Part(T - p.last, T - p.first, p.recorded) for p in found] if reverse else found


def worth_recording(T: int, B: int, H: int, way: str = "forward") -> bool:
    """Whether a sequence has a part to record, and states small enough for it to pay."""
    tried = overrides.tiles("step", way)
    return min(tried.get("LENGTHS", LENGTHS)) <= T and 0 < B * H <= tried.get("LARGEST", LARGEST)

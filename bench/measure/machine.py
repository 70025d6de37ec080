"""What else the machine does while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
# The system counts in hundredths of a second; over less than this, the count is mostly rounding.
_LEAST = 0.2


class Others:
    """Counts the cores that other programs take, from when it is made."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def cores(self) -> float:
        """How many cores others have taken in the mean; NaN where the system doesn't say, or too little time passed."""
        passed = time.perf_counter() - self._began
        if passed < _LEAST:
            return float("nan")
        taken = _busy() - self._busy - (_own() - self._own)
        return 0.0 if taken < 0 else taken / passed  # NaN stays NaN


def _busy() -> float:
    """Core seconds since the machine began, of all programs and of what its own host takes from it."""
    try:
        fields = _STAT.read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return float("nan")
    user, nice, system, _, _, irq, soft, steal = map(float, fields)
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Core seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def words_on_load(load: float, cores: int) -> str:
    """A warning where more wants to run than a quarter of the cores; "" where the machine is idle enough.

    Args:
        load: mean number of programs that wanted a core in the last minute.
    """
    if not load > cores / 4:
        return ""
    return (
        f"load {load:.2g} on {cores} cores: what is measured beside other programs says little; OMP_NUM_THREADS=1 "
        "measures one thread alone."
    )

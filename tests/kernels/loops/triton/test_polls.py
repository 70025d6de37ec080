"""The limit of a barrier's polls: off unless the environment has it, and then a trap in whatever polls."""

import pytest

from gatefuse.kernels.runtime import debug
from tests.support.kernels.compiling import compiling

_COMPILE = """
import os
import torch
from triton.backends.compiler import GPUTarget
from gatefuse import find_cell
from gatefuse.bench.measure.barrier_loop import barrier_loop_kernel
from gatefuse.kernels.loops.triton import grid
from gatefuse.kernels.runtime.launcher import compile_only, launch
from tests.kernels.loops.triton.test_compile_ahead import compile_cell

def say(name, kernels):
    for kernel in kernels.values():
        ptx = kernel.asm["ptx"]
        print(name, *(ptx.count(what) for what in ("trap;", "late, polls, 4321, behind;", "bra poll;")))

for target in (GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32)):
    for polls in ("", "4321"):
        for slow in ("", "1"):
            os.environ["GATEFUSE_POLLS"], os.environ["GATEFUSE_DEBUG"] = polls, slow
            say(polls or "none", compile_cell(find_cell("gru_reset_first"), target, torch.float16, False, grid))
for form in ("every", "portable"):
    for polls in (0, 4321):
        with compile_only(GPUTarget("cuda", 90, 32)) as kernels:
            counters = torch.zeros(4, dtype=torch.int32)
            launch(barrier_loop_kernel, (4, 4), counters, 2000, FORM=form, POLLS=polls, num_warps=4)
        say(f"{form}-{polls}", kernels)
os.environ["GATEFUSE_POLLS"], os.environ["GATEFUSE_DEBUG"] = "4321", ""
print("hip", sum(kernel.asm["amdgcn"].count("trap") for kernel in compile_cell(
    find_cell("lstm"), GPUTarget("hip", "gfx942", 64), torch.float16, False, grid).values()))
"""


@pytest.mark.slow
def test_what_polls_traps_at_the_limit_and_only_where_there_is_one(tmp_path):
    found = [line.split() for line in compiling(_COMPILE, tmp_path) if line]
    counts = [(name, *map(int, numbers)) for name, *numbers in found]
    limited = [(traps, limits, polls) for name, traps, limits, polls in counts[:-5] if name == "4321"]
    unlimited = [(traps, limits, polls) for name, traps, limits, polls in counts[:-5] if name == "none"]
    assert len(limited) == len(unlimited) == 2 * 2 * 2  # targets, with delays and without, ways
    assert all(traps == limits == polls > 0 for traps, limits, polls in limited)
    assert [(0, 0, polls) for *_, polls in limited] == unlimited
    assert counts[-5:-1] == [
        ("every-0", 0, 0, 1),
        ("every-4321", 1, 1, 1),
        ("portable-0", 0, 0, 0),
        ("portable-4321", 1, 0, 0),
    ]
    assert counts[-1] == ("hip", 0)


def test_without_the_environment_there_is_no_limit(monkeypatch):
    monkeypatch.delenv("GATEFUSE_POLLS", raising=False)
    assert debug.polls() == 0
    debug.limit_polls()
    assert debug.polls() == debug.POLLS
    monkeypatch.setenv("GATEFUSE_POLLS", "0")
    debug.limit_polls()
    assert debug.polls() == 0
    monkeypatch.delenv("GATEFUSE_POLLS")


@pytest.mark.parametrize("given", ["many", "-1", "1.5", "2147483648", "٣"])
def test_another_limit_than_a_number_is_refused(monkeypatch, given):
    monkeypatch.setenv("GATEFUSE_POLLS", given)
    with pytest.raises(ValueError, match=rf"GATEFUSE_POLLS must be a number from 0 to 2147483647. Got '{given}'."):
        debug.polls()

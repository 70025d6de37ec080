"""What nobody else writes is asked for before a program waits for others: behind a wait come exchanged loads alone."""

import pytest

from tests.support.kernels.compiling import compiling

_COMPILE = """
import re
import sys
import torch
from triton.backends.compiler import GPUTarget
from gatefuse import find_cell
from gatefuse.kernels.loops.triton import grid
from gatefuse.kernels.tiling.overrides import trying
from tests.kernels.loops.triton.test_compile_ahead import compile_cell

for name, H, form in (("lstm", 512, "ptx"), ("lstm", 64, "ptx"), ("gru", 512, "every"), ("lstm", 64, "every")):
    with trying("grid", "backward", {"FORM": form}):
        kernels = compile_cell(find_cell(name), GPUTarget("cuda", 90, 32), torch.bfloat16, False, grid, H=H)
    body = kernels["grid_backward_kernel"].asm["ttgir"].partition("scf.for")[2]
    # What a program waits for with a product in one piece, its own threads, they meet at in a block barrier.
    before, wait, behind = re.split(r"(poll:|gpu.barrier|ttg.barrier)", body, maxsplit=1)
    own = [line for line in re.split("red.release", behind)[0].splitlines() if "tt.load" in line]
    print(name, H, form, before.count("tt.load"), sum("cacheModifier = cg" not in line for line in own), len(own))
"""


@pytest.mark.slow
def test_a_step_backward_begins_with_all_that_is_its_own(tmp_path):
    found = {}
    for line in compiling(_COMPILE, tmp_path):
        name, H, form, before, own, behind = line.split()
        found[name, int(H), form] = int(before), int(own), int(behind)
    assert all(behind > 0 for *_, behind in found.values())  # the partial sums
    # lstm: four slots, c in two places (nothing needs h), the output's gradient, two carried ones
    assert found["lstm", 512, "ptx"][:2] == (4 + 2 + 1 + 2, 0)
    assert found["lstm", 64, "ptx"][:2] == (4 + 2 + 1 + 2, 0)
    assert found["gru", 512, "every"][1] == 0
    # Each thread waits for itself, and no arrival comes between: the carried ones are stored by others of the program.
    assert found["lstm", 64, "every"][:2] == (4 + 2 + 1, 2)

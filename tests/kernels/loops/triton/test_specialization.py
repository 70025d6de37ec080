"""A kernel is compiled for no length, batch or step alone: a new one would compile anew, and inside a capture fail."""

import inspect
import sys

import pytest
import torch
import triton.language as tl

from gatefuse import find_cell
from gatefuse.kernels.loops.buffers import Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.triton import block, step_launches
from gatefuse.kernels.loops.triton import grid as grid_loop
from tests.support import made_up_cells

LOOPS = {"step": step_launches, "block": block, "grid": grid_loop}


@pytest.mark.parametrize("cell", [find_cell("gru_reset_first"), made_up_cells.mixed_stage], ids=lambda c: c.name)
@pytest.mark.parametrize("loop", LOOPS)
def test_no_number_of_a_launch_is_part_of_a_kernel_s_key(monkeypatch, loop, cell):
    found = {}

    def launch(kernel, grid, *args, **constants):
        named = dict(zip(inspect.signature(kernel.fn).parameters.items(), args, strict=False))
        numbers = {n for (n, p), v in named.items() if isinstance(v, int) and p.annotation is not tl.constexpr}
        found[kernel.fn.__name__] = numbers - set(sys.modules[kernel.fn.__module__].RUNTIME)

    monkeypatch.setattr(LOOPS[loop], "launch", launch)
    T, B, H, G, S = 3, 2, 8, len(cell.gates), len(cell.states)
    inputs = Sequence(
        cell, torch.zeros(T, B, G * H), torch.zeros(S, B, H), torch.zeros(G * H, H), None,
        torch.zeros(len(cell.parameters), H), None, None, None, "forward",
    )  # fmt: skip
    kept = LOOPS[loop].forward(inputs, True, False)
    LOOPS[loop].backward(inputs, kept, Upstream(torch.zeros(T, B, H), None, torch.zeros(S, B, H)))
    assert len(found) == (3 if loop == "step" else 2)
    assert not any(found.values()), found

"""Every cell's kernels compile for GPUs that aren't here.

In a process of its own, since Triton reads TRITON_INTERPRET once.
"""

import os
import subprocess
import sys

import pytest
import torch

from gatefuse import cell_names, find_cell
from gatefuse.kernels.drivers.fused import interpreted
from gatefuse.kernels.launch import compile_only
from tests import cells_on_the_spot

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
BINARY = {"cuda": "cubin", "hip": "hsaco"}


def compile_cell(cell, target, dtype, masks, loop):
    """All kernels of one of a cell's loops, forward and backward, by name."""
    T, B, H = 2, 16, 64
    G, S, P = len(cell.gates), len(cell.states), len(cell.parameters)

    def zeros(*shape):
        return torch.zeros(*shape, dtype=dtype)

    restarts = torch.zeros(T, B, dtype=torch.bool) if masks else None
    live = torch.ones(T, B, dtype=torch.bool) if masks else None
    inputs = (cell, zeros(T, B, G * H), zeros(S, B, H), zeros(G * H, H), zeros(G * H), zeros(P, H), restarts, live)
    with compile_only(target) as kernels:
        kept = loop.forward(*inputs, False, True, True)
        d_rest = zeros(S - 1, T, B, H) if masks and S > 1 else None
        loop.backward(*inputs, False, kept, zeros(T, B, H), d_rest, zeros(S, B, H))
    return kernels


def main() -> None:
    """Compile everything and say so; run by the test below."""
    from triton.backends.compiler import GPUTarget

    from gatefuse.kernels import block_loop, grid_loop, step_loop

    for backend, arch, warp in TARGETS.values():
        for cell in (*map(find_cell, cell_names()), *cells_on_the_spot.ALL):
            for dtype, masks in ((torch.bfloat16, False), (torch.float32, True)):
                target = GPUTarget(backend, arch, warp)
                kernels = compile_cell(cell, target, dtype, masks, step_loop)
                assert {"update_kernel", "backward_kernel"} <= {name.split()[0] for name in kernels}
                # Whole-sequence kernels take long to compile: each cell for one target, two for all.
                if (arch == 90 and not masks) or (cell.name in ("gru", "gru_reset_first") and masks):
                    kernels |= compile_cell(cell, target, torch.bfloat16, masks, block_loop)
                    kernels |= compile_cell(cell, target, torch.bfloat16, masks, grid_loop)
                for name, kernel in kernels.items():
                    assert len(kernel.asm[BINARY[backend]]) > 0, name
                    print(arch, cell.name, dtype, name)


def test_every_cell_compiles_for_every_target(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from tests.test_compile_ahead import main; main()"],
        env=env, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for target in ("80", "90", "gfx942"):
        for cell in cell_names():
            assert sum(line.startswith(f"{target} {cell} ") for line in lines) >= 4


@pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")
def test_the_interpreter_can_t_compile():
    with (
        pytest.raises(RuntimeError, match=r"compiling ahead needs Triton without TRITON_INTERPRET."),
        compile_only(None),
    ):
        pass

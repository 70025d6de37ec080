"""Every cell's kernels compile for GPUs that aren't here.

In a process of its own, since Triton reads TRITON_INTERPRET once.
"""

from importlib.metadata import version

import pytest
import torch

from gatefuse import cell_names, find_cell
from gatefuse.kernels.loops.buffers import Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.runtime.launcher import compile_only
from gatefuse.kernels.runtime.settings import interpreted
from tests.support import made_up_cells
from tests.support.kernels.compiling import compiling

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
BINARY = {"cuda": "cubin", "hip": "hsaco"}


def compile_cell(cell, target, dtype, masks, loop, H=64, order="forward", B=16, gradients=True):
    """All kernels of one of a cell's loops, forward and, with gradients, backward, by name."""
    W = 2 * H if order == "both" else H
    T = 2
    M, S, P = len(cell.recurrent_gates), len(cell.states), len(cell.parameters)

    def zeros(*shape):
        return torch.zeros(*shape, dtype=dtype)

    live = torch.ones(T, B, dtype=torch.bool) if masks else None
    restarts = torch.ones(2, T, B, dtype=torch.bool) if masks and order == "both" else live
    fresh = zeros(S, B, W) if masks else None
    weights = zeros(M * W, H), zeros(M * W), zeros(P, W)
    inputs = Sequence(cell, zeros(T, B, len(cell.x_blocks) * W), zeros(S, B, W), *weights, restarts, fresh, live, order)
    with compile_only(target) as kernels:
        kept = loop.forward(inputs, gradients, gradients)
        d_rest = zeros(S - 1, T, B, W) if masks and S > 1 else None
        if gradients:
            loop.backward(inputs, kept, Upstream(zeros(T, B, W), d_rest, zeros(S, B, W)))
    return kernels


def main(name: str) -> None:
    """Compile everything for a target and say so; run by the test below."""
    from triton.backends.compiler import GPUTarget

    from gatefuse.kernels.loops.triton import block, grid, step

    backend, arch, warp = TARGETS[name]
    for cell in (*map(find_cell, cell_names()), *made_up_cells.ALL):
        for dtype, masks in ((torch.bfloat16, False), (torch.float32, True)):
            target = GPUTarget(backend, arch, warp)
            kernels = compile_cell(cell, target, dtype, masks, step)
            assert {"update_kernel", "backward_kernel"} <= {name.split()[0] for name in kernels}
            # Whole-sequence kernels take long to compile: each cell for one target, two for all, these in both
            # directions at once.
            if (arch == 90 and not masks) or (cell.name in ("gru", "gru_reset_first") and masks):
                order = "both" if masks else "forward"
                kernels |= compile_cell(cell, target, torch.bfloat16, masks, block, order=order)
                if backend == "cuda" or version("triton") >= "3.7":  # which grid's driver refuses there
                    kernels |= compile_cell(cell, target, torch.bfloat16, masks, grid, order=order)
            if arch == 90 and not masks:  # the product's sum split among programs
                split = compile_cell(cell, target, torch.bfloat16, masks, grid, H=512)
                kernels |= {f"{name} split": kernel for name, kernel in split.items()}
            for name, kernel in kernels.items():
                assert len(kernel.asm[BINARY[backend]]) > 0, name
                # Loads of what others computed must not be moved ahead of the barrier by pipelining.
                assert "grid" not in name or "async_copy" not in kernel.asm["ttgir"], name
                print(arch, cell.name, dtype, name)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_cell_compiles_for_every_target(tmp_path, target):
    program = f"from tests.kernels.loops.triton.test_compile_ahead import main; main({target!r})"
    lines = compiling(program, tmp_path, timeout=900, TRITON_DEFAULT_FP_FUSION="1")
    for cell in cell_names():
        assert sum(line.startswith(f"{TARGETS[target][1]} {cell} ") for line in lines) >= 4


@pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")
def test_the_interpreter_can_t_compile():
    with (
        pytest.raises(RuntimeError, match=r"compiling ahead needs Triton without TRITON_INTERPRET."),
        compile_only(None),
    ):
        pass

"""No kernel loads what another of its threads may not have stored yet; see races.py. Compiled for sm_90, not run.

In a process of its own, since Triton reads TRITON_INTERPRET once.
"""

import pytest
import torch

from gatefuse import find_cell
from tests.kernels.loops.triton.test_compile_ahead import compile_cell
from tests.support import made_up_cells
from tests.support.kernels.compiling import compiling
from tests.support.kernels.ttgir_races import races

HALF, FLOAT = torch.bfloat16, torch.float32
# Cell, loop, H, B, dtype, masks, gradients, and the form of grid's barrier or "". At the sizes of the first lines
# layouts differ; the others differ in what a program goes through between a store and a load.
CASES = (
    (find_cell("gru"), "block", 128, 16, HALF, True, True, ""),
    (find_cell("article_peephole_lstm"), "block", 64, 16, HALF, True, True, ""),
    (find_cell("lstm"), "step", 20, 3, HALF, True, True, ""),
    (find_cell("lstm"), "grid", 650, 64, HALF, False, False, ""),
    (find_cell("lstm"), "grid", 650, 64, HALF, False, False, "every"),
    (find_cell("lstm"), "grid", 450, 80, HALF, False, True, ""),
    (find_cell("gru_reset_first"), "grid", 64, 35, HALF, True, False, "flag"),
    (find_cell("gru_reset_first"), "grid", 64, 35, HALF, True, True, ""),
    (find_cell("gru_reset_first"), "step", 64, 16, FLOAT, True, True, ""),
    (made_up_cells.mixed_stage, "grid", 512, 35, HALF, True, True, "every"),
    (made_up_cells.indrnn, "grid", 650, 64, HALF, True, True, ""),
    (made_up_cells.indrnn, "block", 64, 16, HALF, True, True, ""),
    (made_up_cells.attending, "block", 64, 16, HALF, True, True, ""),
    (made_up_cells.attending, "grid", 512, 35, HALF, True, True, "every"),
)
KERNEL = """
tt.func public @kernel(%carry_ptr: !tt.ptr<f32> loc("a"), %T: i32) {
  %c = arith.constant dense<16> : tensor<16x16xi32, #a>
  scf.for %i = %0 to %T step %1 : i32 {
    BEFORE
    %2 = tt.splat %carry_ptr : !tt.ptr<f32> -> tensor<16x16x!tt.ptr<f32>, #a> loc(#loc1)
    %3 = tt.addptr %2, %c : tensor<16x16x!tt.ptr<f32>, #a>, tensor<16x16xi32, #a> loc(#loc1)
    %4 = tt.load %3 : tensor<16x16x!tt.ptr<f32>, #a> loc(#loc2)
    %5 = ttg.convert_layout %3 : tensor<16x16x!tt.ptr<f32>, #a> -> tensor<16x16x!tt.ptr<f32>, #b> loc(#loc2)
    tt.store %5, %4 : tensor<16x16x!tt.ptr<f32>, #b> loc(#loc3)
    AFTER
  } loc(#loc4)
  tt.return loc(#loc5)
}
"""


@pytest.mark.parametrize(
    ("before", "after", "layout", "found"),
    [
        ("", "", "#b", {"addptr(carry_ptr, constant(dense<16>))"}),
        ("", "", "#a", set()),
        ("ttg.barrier local", "", "#b", set()),
        ("", "gpu.barrier", "#b", set()),
        ("scf.if %7 {\n gpu.barrier\n }", "", "#b", {"addptr(carry_ptr, constant(dense<16>))"}),
        ("scf.if %7 {\n gpu.barrier\n } else {\n gpu.barrier\n }", "", "#b", set()),
    ],
)
def test_a_load_by_another_thread_than_the_store_s_is_found(before, after, layout, found):
    text = KERNEL.replace("BEFORE", before).replace("AFTER", after).replace("#b", layout)
    assert races(text) == found


def main() -> None:
    """Compile all cases and say what was found; run by the test below."""
    from contextlib import nullcontext

    from triton.backends.compiler import GPUTarget

    from gatefuse.kernels.loops.registry import loop_module
    from gatefuse.kernels.tiling.overrides import trying

    for cell, loop, H, B, dtype, masks, gradients, form in CASES:
        kernels = {}
        for way in ("forward", "backward")[: 1 + gradients]:
            with trying(loop, way, {"FORM": form}) if form else nullcontext():
                found = compile_cell(
                    cell, GPUTarget("cuda", 90, 32), dtype, masks, loop_module(loop),
                    H=H, B=B, gradients=gradients,
                )  # fmt: skip
            kernels |= {name: kernel for name, kernel in found.items() if loop == "step" or way in name}
        for name, kernel in kernels.items():
            print(cell.name, loop, H, name, sorted(races(kernel.asm["ttgir"])))


@pytest.mark.slow
def test_all_threads_meet_between_a_store_and_a_load_by_another(tmp_path):
    lines = compiling("from tests.kernels.loops.triton.test_races import main; main()", tmp_path)
    assert len(lines) >= 2 * len(CASES) - 3
    assert [line for line in lines if not line.endswith(" []")] == []

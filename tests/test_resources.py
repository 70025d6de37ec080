"""What kernels take of a multiprocessor: how it is read off the compilers' texts, and what must hold of block's."""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

from gatefuse.bench import resource_report, resources
from gatefuse.bench.__main__ import main
from gatefuse.bench.machine_code import TimeLoop, Usage, matrix_instructions, time_loop, usage
from gatefuse.bench.residence import Held, held
from gatefuse.kernels.drivers.fused import interpreted

ROOT = Path(__file__).resolve().parents[1]

USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function other_kernel:
  REG:18 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:464 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function some_kernel:
  REG:226 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:464 TEXTURE:0 SURFACE:0 SAMPLER:0
"""

# A product before the loop; the loop, with one that waits within it; the jump to itself that ends a kernel.
SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
                                                                          /* 0x000e220000000800 */
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R12, RZ ;  /* 0x00000a00ff017b82 */
        /*0020*/              @!P0 BRA 0x00b0 ;                           /* 0x00000a00ff017b82 */
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;          /* 0x00000a00ff017b82 */
        /*0040*/                   HGMMA.64x16x16.F32.BF16 R48, gdesc[UR32], RZ, !UPT ;
        /*0050*/                   LDG.E.STRONG.GPU R3, [R4] ;
        /*0060*/               @P2 BRA 0x50 ;
        /*0070*/                   STL.64 [R1+0x8], R194 ;
        /*0080*/              @!P1 LDL R194, [R1+0x8] ;
        /*0090*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*00a0*/             @!UP0 BRA 0x30 ;
        /*00b0*/                   STL [R1], R2 ;
        /*00c0*/                   EXIT ;
        /*00d0*/                   BRA 0xd0;
"""

PTX = """
	wgmma.fence.sync.aligned;
	wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, %p1, 1, 1, 0, 0;
	wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, 1, 1, 1, 0, 0;
	wgmma.commit_group.sync.aligned;
	wgmma.wait_group.sync.aligned 0;
	mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r4};
"""


def make_ttgir(before, within):
    """A kernel of a loop: lines before it, lines within; the loop carries %carried."""
    head = '#loc = loc("/some/{where")\nmodule attributes {"ttg.num-warps" = 8 : i32} {\n  tt.func public @k(%w: i64) {'
    loop = (
        "    %out:2 = scf.for %i = %c0 to %T step %c1 iter_args(%carried = %first) -> (tensor<64x16xf32, #l>)  : i32 {"
    )
    end = "      scf.yield %next : tensor<64x16xf32, #l> loc(#loc)\n    } loc(#loc)\n    tt.return\n  }\n}"
    return "\n".join([head, *(f"    {line}" for line in before), loop, *(f"      {line}" for line in within), end])


LOAD = "%w = tt.load %p, %m : tensor<64x64x!tt.ptr<bf16>, #b> loc(#loc)"
ALLOC = "%s = ttg.local_alloc %w : (tensor<64x64xbf16, #b>) -> !ttg.memdesc<64x64xbf16, #sh, #smem> loc(#loc)"
VIEW = "%t = ttg.memdesc_trans %s {order = array<i32: 1, 0>} : !ttg.memdesc<64x64xbf16> -> !ttg.memdesc<64x64xbf16>"
CUT = "%v = arith.truncf %carried : tensor<64x16xf32, #l> to tensor<64x16xbf16, #l> loc(#loc)"
VECTOR = "%h = ttg.local_alloc %v : (tensor<64x16xbf16, #l>) -> !ttg.memdesc<64x16xbf16, #sh, #smem> loc(#loc)"
READ = "%r = ttg.local_load %s : !ttg.memdesc<64x64xbf16, #sh, #smem> -> tensor<64x64xbf16, #ttg.dot_op<{opIdx = 0}>>"
MOVED = "%s2 = ttg.local_alloc %r : (tensor<64x64xbf16, #b>) -> !ttg.memdesc<64x64xbf16, #sh2, #smem> loc(#loc)"
BUFFER = "%s = ttg.local_alloc : () -> !ttg.memdesc<2x64x64xbf16, #sh, #smem, mutable> loc(#loc)"
SLOT = (
    "%r = ttg.memdesc_index %s[%i] : !ttg.memdesc<2x64x64xbf16, #sh, mutable> -> !ttg.memdesc<64x64xbf16, #sh, mutable>"
)


def product(weights, vector="%h"):
    name = f"%d_{weights[1:]}_{vector[1:]}"
    return (
        f"{name}:3 = ttng.warp_group_dot {weights}, {vector}, %zero {{isAsync = true}} : !a * !b -> tensor<64x16xf32>"
    )


@pytest.mark.parametrize(
    ("before", "within", "expected"),
    [
        ([LOAD, ALLOC], [CUT, VECTOR, product("%s")], Held("shared", 8192, 0)),
        ([LOAD, ALLOC], [CUT, VECTOR, product("%h", "%s")], Held("shared", 8192, 0)),
        ([LOAD, ALLOC], [CUT, VECTOR, READ, product("%r"), product("%s")], Held("shared", 8192, 0)),
        ([LOAD, ALLOC, VIEW], [CUT, VECTOR, product("%t"), product("%s")], Held("shared", 8192, 0)),
        ([LOAD, ALLOC], [CUT, VECTOR, READ, MOVED, product("%s2")], Held("shared", 8192, 1)),
        ([LOAD], [CUT, VECTOR, product("%w")], Held("registers", 8192, 0)),
        ([], [LOAD, ALLOC, CUT, VECTOR, product("%s")], Held("global", 0, 0)),
        ([BUFFER], [SLOT, CUT, VECTOR, product("%r")], Held("global", 0, 0)),
        ([LOAD, ALLOC], [CUT, VECTOR, product("%s"), product("%carried")], Held("global, shared", 8192, 0)),
    ],
)
def test_weights_are_where_the_products_of_the_loop_find_them(before, within, expected):
    assert held(make_ttgir(before, within)) == expected


def test_a_kernel_without_a_product_in_its_loop_is_refused():
    with pytest.raises(ValueError, match=r"TTGIR must have a product within a loop. Got none."):
        held(make_ttgir([LOAD, ALLOC, product("%s", "%s")], [CUT]))


def test_registers_and_stack_are_the_kernel_s_own():
    assert usage(USAGE, "some_kernel") == Usage(226, 16)
    with pytest.raises(ValueError, match=r"cuobjdump's usage must have a line for kernel. Got"):
        usage(USAGE, "kernel")


def test_the_time_loop_is_the_longest_with_a_matrix_instruction():
    assert time_loop(SASS) == TimeLoop(instructions=8, matrix=1, barriers=1, spills=2)
    with pytest.raises(
        ValueError, match=r"SASS must have a loop with matrix instructions. Got none in 1 instructions."
    ):
        time_loop("        /*00d0*/                   BRA 0xd0;")


def test_fences_are_no_matrix_instructions():
    assert matrix_instructions(PTX) == {"wgmma m64n16k16": 2, "mma.sync m16n8k16": 1}


def make_csv(path, *changes):
    plain = resources.Row(
        "block", "lstm", "backward", "bfloat16", 64, 16, 1, "block_backward_kernel", warps=4, registers=99,
        shared_bytes=40_960, shared_limit=101_376, fits=True, weights_in="shared", weights_bytes=32_768, resident=True,
        matrix="32 wgmma m64n16k16", step_matrix=32, step_barriers=8, step_instructions=700,
    )  # fmt: skip
    stamp = {"arch": "sm_86", **dict.fromkeys(resource_report.STAMP, "some")}
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame([{**asdict(plain), **stamp, **change} for change in changes]).to_csv(path, index=False)
    return path


def test_the_page_says_what_fits_and_what_stays_on_the_chip(tmp_path, capsys):
    large = {"H": 128, "shared_bytes": 139_264, "fits": False, "weights_bytes": 131_072}
    loaded = {"H": 20, "weights_in": "global", "weights_bytes": 0, "resident": False, "stack_bytes": 8}
    csv = make_csv(
        tmp_path / "resources" / "sm_86.csv", {}, large, loaded, {"H": 16, "error": "CompilationError: a | b"}
    )
    main(["report", str(csv)])
    assert capsys.readouterr().out.strip() == str(csv.with_suffix(".md"))
    text = csv.with_suffix(".md").read_text()
    assert text == resource_report.render(resource_report.read(csv))
    assert text.startswith("**Compiled for sm_86 ahead of time; nothing here has run.** 4 kernels")
    assert "Of 3 kernels that compiled, 2 fit into the 101,376 bytes" in text
    assert "2 keep all recurrent weights in shared memory over all steps" in text
    assert "1 put something on the stack, 0 of these within the time loop" in text
    assert "| block | lstm | bfloat16 | 20, 64 | 64 |" in text
    assert "| backward | bfloat16 | 128 | 16 | 1 | 4 | 99 | 0 | 139,264 | **no** | resident, 131,072 | 0 |" in text
    assert "| yes | **global**, 0 | 0 | 32 wgmma m64n16k16 | 32 | 8 | 0 | 700 |" in text
    assert "| block | lstm | backward | bfloat16 | 16 | 16 | CompilationError: a \\| b |" in text
    assert "- triton: some" in text


def test_a_page_of_no_rows_is_refused(tmp_path):
    rows = resource_report.read(make_csv(tmp_path / "a.csv", {}))
    with pytest.raises(ValueError, match=r"rows must hold at least one row. Got none."):
        resource_report.render(rows[:0])


def test_a_triton_without_cuobjdump_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("triton.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(SystemExit) as stopped:
        main(["resources", "--reports", str(tmp_path)])
    assert stopped.value.code == 1
    assert "registers are read by cuobjdump, which Triton's wheels bring. Got none at" in capsys.readouterr().err


def test_an_unknown_architecture_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["resources", "--arch", "sm_61"])
    assert "arch must be one of sm_80, sm_86, sm_89, sm_90, sm_120. Got sm_61." in capsys.readouterr().err


@pytest.mark.skipif(not interpreted(), reason="Triton's interpreter is off")
def test_kernels_that_do_not_compile_have_rows_that_say_why():
    case = resources.Case(resources.LOOPS[0], "lstm", torch.bfloat16, 16, 16)
    with pytest.raises(RuntimeError, match=r"compiling ahead needs Triton without TRITON_INTERPRET."):
        list(resources.measure(case, "sm_90", Path()))


PROGRAM = """
from gatefuse.bench import resources
from gatefuse.bench.__main__ import main
import sys, torch

block, grid, _ = resources.LOOPS
resources.LOOPS = (
    block._replace(hidden=(128,), cells=("lstm", "gru"), dtypes=(torch.bfloat16,)),
    grid._replace(hidden=(128, 256, 512, 768, 1024), batches=(16, 64, 256)),
)
resources.INFERENCE_CELLS = ()
main(["resources", "--arch", "sm_90", "--reports", sys.argv[1]])
"""


def test_weights_stay_on_the_chip_at_every_size(tmp_path):
    try:
        resources.cuobjdump()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "TRITON_CACHE_DIR": str(tmp_path / "cache")
    }
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = resource_report.read(tmp_path / "resources" / "sm_90.csv")
    assert set(rows["error"]) == {""}
    assert set(rows["triton"]) != {""}
    expected = {("block", cell, 128) for cell in ("lstm", "gru")}
    expected |= {("grid", cell, H) for cell in ("lstm", "gru") for H in (128, 256, 512, 768, 1024)}
    for way in ("training forward", "backward"):
        found = rows[rows["way"] == way]
        assert {16, 32, 64} <= set(found["batch_tile"])
        assert set(found[["loop", "cell", "H"]].itertuples(index=False, name=None)) == expected
    for _, row in rows.iterrows():
        said = f"{row['loop']} {row['cell']} H{row['H']} tile {row['batch_tile']} {row['way']}"
        assert row["resident"], said
        assert row["stack_bytes"] <= 32, said
        assert row["shared_bytes"] <= 232_448, said
        split = row["loop"] == "block" or row["way"] != "backward" or row["H"] >= 512
        assert "wgmma" in row["matrix"] or not split, said
        assert row["batch_tile"] >= 16, said
        assert row["programs"] <= 132, said

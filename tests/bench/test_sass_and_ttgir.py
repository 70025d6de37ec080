"""What is read off the texts of compilers: registers, a step's instructions, where the weights are kept."""

import pytest

from gatefuse.bench.resources.sass import TimeLoop, Usage, matrix_instructions, time_loop, usage
from gatefuse.bench.resources.ttgir import Held, held

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


def test_a_name_of_one_block_may_be_another_value_in_the_next():
    later = [name.replace("ttg.local_alloc %w", "arith.addf %w, %w").replace("ttng.warp_group_dot", "arith.mulf")
             for name in (ALLOC, product("%s"))]  # fmt: skip
    block = ["scf.if %more {", CUT, VECTOR, product("%s"), "}", "scf.if %ended {", *later, "}"]
    assert held(make_ttgir([LOAD, ALLOC], block)) == Held("shared", 8192, 0)


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

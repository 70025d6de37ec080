"""The barrier among the programs of a grid, in two forms behind one name.

Each program adds one to a counter that never goes back, and waits until all have. The block barriers around it make the
other warps' stores part of what the one thread releases, and its acquire part of what they see. All programs must be
resident, which a cooperative launch makes sure of.
"""

import triton
import triton.language as tl

# One thread adds with release, then polls with acquire: no poll costs a block barrier, as tl.atomic_add's would.
_ASM = tl.constexpr("""
{
    .reg .pred leader, behind;
    .reg .u32 thread, seen;
    mov.u32 thread, %tid.x;
    setp.eq.u32 leader, thread, 0;
    @leader red.release.gpu.global.add.u32 [$1], 1;
    mov.u32 seen, $2;
poll:
    @leader ld.acquire.gpu.global.u32 seen, [$1];
    setp.lt.u32 behind, seen, $2;
    @behind bra poll;
    mov.u32 $0, seen;
}
""")


@triton.jit
def grid_barrier(counter_ptr, target, FORM: tl.constexpr):
    """Wait until ``target`` arrivals were counted. FORM is "ptx", "portable", or "launch", where a launch's end is the
    barrier, as in Triton's interpreter, which runs programs one after another."""
    if FORM == "ptx":
        tl.debug_barrier()
        tl.inline_asm_elementwise(_ASM, "=r,l,r", [counter_ptr, target], dtype=tl.int32, is_pure=False, pack=1)
        tl.debug_barrier()
    elif FORM == "portable":
        tl.debug_barrier()
        tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")
        while tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu") < target:
            pass
        tl.debug_barrier()

"""The barrier among the programs of a grid, in two halves, and each in two forms behind one name.

Each program adds one to a counter that never goes back when it arrives, and waits until all others have. The block
barriers around it make the other warps' stores part of what the one thread releases, and its acquire part of what they
see. All programs must be resident, which a cooperative launch makes sure of.

FORM is "ptx", "every", ptx in which every thread polls for itself, "portable", "launch", where a launch's end is the
barrier, as in Triton's interpreter, which runs programs one after another, or "delayed": ptx after a pause that differs
by program and barrier, for debugging.
"""

import triton
import triton.language as tl

# One thread adds with release, one polls with acquire: no poll costs a block barrier, as tl.atomic_add's would.
_ARRIVE = tl.constexpr("""
{
    .reg .pred leader;
    .reg .u32 thread;
    mov.u32 thread, %tid.x;
    setp.eq.u32 leader, thread, 0;
    @leader red.release.gpu.global.add.u32 [$1], 1;
    mov.u32 $0, thread;
}
""")


def _poll(who: str, limited: bool) -> tl.constexpr:
    """Assembly that polls until the target is seen; ``who`` is the predicate of the threads that do, or none for all.

    A limit of polls ends the kernel in a trap, which all later calls to the device report as an error.
    """
    count = """
    add.u32 polls, polls, 1;
    setp.ge.and.u32 late, polls, $3, behind;
    @late trap;"""
    return tl.constexpr(f"""
{{
    .reg .pred leader, behind, late;
    .reg .u32 thread, seen, polls;
    mov.u32 thread, %tid.x;
    setp.eq.u32 leader, thread, 0;
    mov.u32 seen, $2;
    mov.u32 polls, 0;
poll:
    {who} ld.acquire.gpu.global.u32 seen, [$1];
    setp.lt.u32 behind, seen, $2;{count if limited else ""}
    @behind bra poll;
    mov.u32 $0, seen;
}}
""")


_WAIT, _WAIT_LIMITED = _poll("@leader", False), _poll("@leader", True)
# Every thread acquires, so that no block barrier need tell the others.
_WAIT_EVERY, _WAIT_EVERY_LIMITED = _poll("", False), _poll("", True)
_TRAP = tl.constexpr("trap; mov.u32 $0, 0;")
# Up to 8 microseconds, out of the target and the program's numbers.
_DELAY = tl.constexpr("""
{
    .reg .u32 mixed, part;
    mov.u32 mixed, %ctaid.x;
    mov.u32 part, %ctaid.y;
    mad.lo.u32 mixed, part, 7919, mixed;
    mad.lo.u32 mixed, mixed, 2654435761, $1;
    mul.lo.u32 mixed, mixed, 2246822519;
    shr.u32 mixed, mixed, 19;
    nanosleep.u32 mixed;
    mov.u32 $0, mixed;
}
""")


@triton.jit
def arrive(counter_ptr, FORM: tl.constexpr):
    """Say that this program's stores are done."""
    if FORM == "ptx" or FORM == "delayed" or FORM == "every":
        tl.debug_barrier()
        tl.inline_asm_elementwise(_ARRIVE, "=r,l", [counter_ptr], dtype=tl.int32, is_pure=False, pack=1)
    elif FORM == "portable":
        tl.debug_barrier()
        tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter_ptr, target, FORM: tl.constexpr, POLLS: tl.constexpr = 0):
    """Wait until ``target`` arrivals were counted; what those programs stored is seen from here on. After POLLS polls,
    where that isn't 0, the kernel ends in a trap; the limit is CUDA's alone."""
    if FORM == "delayed":
        tl.inline_asm_elementwise(_DELAY, "=r,r", [target], dtype=tl.int32, is_pure=False, pack=1)
    if FORM == "ptx" or FORM == "delayed":
        if POLLS > 0:
            tl.inline_asm_elementwise(
                _WAIT_LIMITED, "=r,l,r,n", [counter_ptr, target, POLLS], dtype=tl.int32, is_pure=False, pack=1
            )
        else:
            tl.inline_asm_elementwise(_WAIT, "=r,l,r", [counter_ptr, target], dtype=tl.int32, is_pure=False, pack=1)
        tl.debug_barrier()
    elif FORM == "every":
        if POLLS > 0:
            tl.inline_asm_elementwise(
                _WAIT_EVERY_LIMITED, "=r,l,r,n", [counter_ptr, target, POLLS], dtype=tl.int32, is_pure=False, pack=1
            )
        else:
            tl.inline_asm_elementwise(
                _WAIT_EVERY, "=r,l,r", [counter_ptr, target], dtype=tl.int32, is_pure=False, pack=1
            )
    elif FORM == "portable":
        polls = 0
        while tl.atomic_add(counter_ptr, 0, sem="acquire", scope="gpu") < target:
            if POLLS > 0:
                polls += 1
                if polls == POLLS:
                    tl.inline_asm_elementwise(_TRAP, "=r,r", [polls], dtype=tl.int32, is_pure=False, pack=1)
        tl.debug_barrier()


@triton.jit
def grid_barrier(counter_ptr, target, FORM: tl.constexpr, POLLS: tl.constexpr = 0):
    """Arrive, and wait until ``target`` arrivals were counted."""
    arrive(counter_ptr, FORM)
    wait(counter_ptr, target, FORM, POLLS)


@triton.jit
def block_barrier(FORM: tl.constexpr):
    """A barrier among this program's warps: what one of them stored, the others see from here on."""
    if FORM != "launch":
        tl.debug_barrier()

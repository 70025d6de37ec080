"""A Triton kernel of barriers alone: those of a sequence, without its work."""

import triton
import triton.language as tl

from gatefuse.kernels.triton.barrier import grid_barrier


@triton.jit(do_not_specialize=("steps",))
def barrier_loop_kernel(counter_ptr, steps, FORM: tl.constexpr, POLLS: tl.constexpr = 0):
    """``steps`` barriers among the programs along axis 0, a counter for each place on axis 1; counters begin at 0.

    FORM and POLLS are grid_barrier's, FORM also "block" for the barrier among the threads of one program.
    """
    counter = counter_ptr + tl.program_id(1)
    for i in range(steps):
        if FORM == "block":
            tl.debug_barrier()
        else:
            grid_barrier(counter, (i + 1) * tl.num_programs(0), FORM, POLLS)

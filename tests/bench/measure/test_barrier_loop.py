"""The barrier among the programs of a grid, alone: what hangs here would hang in every kernel that has it."""

import pytest
import torch
import triton
import triton.language as tl

from gatefuse.bench.measure.barrier_loop import barrier_loop_kernel
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.triton.barrier import grid_barrier

pytestmark = [pytest.mark.gpu, pytest.mark.grid]
STEPS = 500


@triton.jit(do_not_specialize=("steps",))
def hand_round_kernel(places_ptr, seen_ptr, counter_ptr, steps, FORM: tl.constexpr, POLLS: tl.constexpr):
    """Each program writes a step's number to its place, meets the others, and takes the least of all places; a step's
    places are its own, as in the kernels. At the end ``seen`` has how often a number was not the step's."""
    programs = tl.num_programs(0)
    own = tl.program_id(0)
    every = tl.arange(0, 128)
    late = 0
    for i in range(steps):
        at = places_ptr + i * programs
        tl.store(at + own, i + 1)
        grid_barrier(counter_ptr, (i + 1) * programs, FORM, POLLS)
        numbers = tl.load(at + every, mask=every < programs, other=i + 1, cache_modifier=".cg")
        late += tl.sum((numbers != i + 1).to(tl.int32))
    tl.store(seen_ptr + own, late)


@pytest.mark.parametrize("form", ["ptx", "every", "portable"])
@pytest.mark.parametrize("programs", [8, 32, 64, 128])
def test_programs_of_a_grid_see_what_others_stored_before_they_met(programs, form):
    if programs > torch.cuda.get_device_properties(0).multi_processor_count:
        pytest.skip("not so many programs can be resident")
    places = torch.zeros(STEPS, programs, dtype=torch.int32, device="cuda")
    seen = torch.full((programs,), -1, dtype=torch.int32, device="cuda")
    counter = torch.zeros(1, dtype=torch.int32, device="cuda")
    # The trap is CUDA's.
    together = {"POLLS": 0 if torch.version.hip else debug.polls(), "num_warps": 4, "launch_cooperative_grid": True}
    hand_round_kernel[(programs,)](places, seen, counter, STEPS, FORM=form, **together)
    assert seen.tolist() == [0] * programs
    assert counter.item() == STEPS * programs


def test_a_grid_s_launch_is_captured():
    """A cooperative launch, within a CUDA graph that is replayed."""
    counter = torch.zeros(1, dtype=torch.int32, device="cuda")
    together = {"POLLS": debug.polls(), "num_warps": 4, "launch_cooperative_grid": True}

    def meet():
        counter.zero_()
        barrier_loop_kernel[(32, 1)](counter, STEPS, FORM="ptx", **together)

    meet()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        meet()
    counter.fill_(7)
    graph.replay()
    assert counter.item() == 32 * STEPS

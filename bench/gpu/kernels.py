"""The kernels that a run's first jobs need, compiled by as many processes as there are cores into Triton's cache.

In one process, which starts a kernel when it comes to it, they would be compiled one after the other, while the GPU
waits. Here tasks of the same cells, options and sizes go the way of a call over tensors on a CPU, and each launch only
compiles. Nothing here touches the GPU but to ask what it is.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from gatefuse.bench.gpu.cases import Case, cases, make_tasks
from gatefuse.kernels.drivers import common
from gatefuse.kernels.runtime import debug
from gatefuse.kernels.runtime.launcher import compile_only


def compile_case(arch: str, case: Case) -> int:
    """Compile a case's kernels for an architecture, ``sm_90``; returns how many there are."""
    torch.set_num_threads(1)
    return len(compiled(arch, case))


def compiled(arch: str, case: Case) -> dict[str, Any]:
    """A case's kernels, by name."""
    from triton.backends.compiler import GPUTarget

    tasks, leaves = make_tasks(case)
    with (
        compile_only(GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)) as kernels,
        torch.set_grad_enabled(case.training),
        debug.switched(case.delayed),
    ):
        outcome = common.run_both(tasks, case.loop) if len(tasks) == 2 else common.run(tasks[0], case.loop)
        if case.training:
            wanted = outcome.sequences + outcome.finals if case.all_states else outcome.sequences
            torch.autograd.grad(wanted, leaves, [torch.zeros_like(value) for value in wanted], allow_unused=True)
    return kernels


def compile_all(arch: str, chosen: Sequence[Case], jobs: int) -> tuple[int, list[str]]:
    """Compile cases by so many processes: how many kernels there were, and what went wrong, by case."""
    kernels, wrong = 0, []
    # Fresh processes: a fork would share Triton's locks, and a GPU's context.
    with ProcessPoolExecutor(min(jobs, len(chosen)), multiprocessing.get_context("spawn")) as pool:
        begun = {pool.submit(compile_case, arch, case): case for case in chosen}
        for done in as_completed(begun):
            try:
                kernels += done.result()
            except Exception as error:  # one that doesn't compile is found again where it is needed
                wrong.append(f"{begun[done].title}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return kernels, wrong


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 1 if something did not compile, 2 if nothing could be."""
    parser = argparse.ArgumentParser(prog="gatefuse.bench.gpu.kernels", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", help="sm_90, say; default: the GPU's that is there")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default: one a core")
    parser.add_argument("--most", type=int, metavar="N", help="the first N cases alone")
    found = parser.parse_args(arguments)
    arch = found.arch or _here()
    if not arch:
        print("kernels are compiled ahead for NVIDIA's GPUs. There is none; --arch sm_90 needs none.", file=sys.stderr)
        return 2
    began, chosen = time.monotonic(), list(cases())[: found.most]
    kernels, wrong = compile_all(arch, chosen, found.jobs)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    seconds = time.monotonic() - began
    print(f"{kernels} kernels of {len(chosen)} cases for {arch} in {seconds:.0f} s, by {found.jobs} processes")
    return int(bool(wrong))


def _here() -> str:
    """The architecture of the GPU that is here, "" where there is none of NVIDIA's."""
    if not torch.cuda.is_available() or torch.version.hip:
        return ""
    return "sm_{}{}".format(*torch.cuda.get_device_capability())


if __name__ == "__main__":
    sys.exit(main())

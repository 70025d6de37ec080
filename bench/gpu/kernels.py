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
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from gatefuse.bench.suite.contenders import FIRST
from gatefuse.bench.suite.sweeps import groups
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.drivers import common
from gatefuse.kernels.loops.registry import KERNELS
from gatefuse.kernels.runtime.launcher import compile_only
from gatefuse.kernels.task import Task, Weights

_LARGEST_BLOCK = 128  # hidden units


class Case(NamedTuple):
    """A task whose kernels are compiled.

    Attributes:
        training: with the gradients of everything.
        reverse, all_states: as a task has them.
        masks: it has lengths, resets and, with ``fresh``, states to begin anew with.
    """

    cell: str
    loop: str
    B: int
    H: int
    dtype: str
    training: bool = True
    masks: bool = False
    fresh: bool = False
    reverse: bool = False
    all_states: bool = False

    @property
    def title(self) -> str:
        way = "training" if self.training else "forward"
        return f"{self.loop} {self.cell} H{self.H} B{self.B} {self.dtype} {way}{', masks' if self.masks else ''}"


def cases() -> Iterator[Case]:
    """What the run's first jobs come to, the largest kernels first; each once."""
    sweep = [(g.shape, g.dtype, g.mode == "training") for g in groups(FIRST, "cuda")]
    found = [
        Case(s.cell, loop, s.B, s.H, dtype, training)
        for s, dtype, training in sweep
        for loop in KERNELS
        if loop != "block" or s.H <= _LARGEST_BLOCK
    ]
    for cell in ("lstm", "gru", "gru_reset_first"):  # what tests/kernels/drivers/test_gpu.py runs
        for H, B in ((128, 16), (256, 16), (512, 64), (768, 16), (1024, 64), (512, 300)):
            found.append(Case(cell, "grid", B, H, "bfloat16", masks=True, fresh=True))
    for loop in KERNELS:  # and test_drivers.py of three cells
        found += [Case(cell, loop, 3, 7, "float32") for cell in ("lstm", "slstm")]
        found.append(Case("gru_reset_first", loop, 3, 7, "float32", masks=True, reverse=True, all_states=True))
        found += [Case("lstm", loop, 16, 128, "bfloat16", training) for training in (False, True)]
    return iter(sorted(dict.fromkeys(found), key=lambda case: (case.loop != "grid", -case.H)))


def compile_case(arch: str, case: Case) -> int:
    """Compile a case's kernels for an architecture, ``sm_90``; returns how many there are."""
    torch.set_num_threads(1)
    return len(compiled(arch, case))


def compiled(arch: str, case: Case) -> dict[str, Any]:
    """A case's kernels, by name."""
    from triton.backends.compiler import GPUTarget

    task, leaves = _make(case)
    with (
        compile_only(GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)) as kernels,
        nullcontext() if case.training else torch.no_grad(),
    ):
        outcome = common.run(task, case.loop)
        if case.training:
            wanted = outcome.sequences + outcome.finals if case.all_states else outcome.sequences
            torch.autograd.grad(wanted, leaves, [torch.zeros_like(value) for value in wanted], allow_unused=True)
    return kernels


def _make(case: Case) -> tuple[Task, list[torch.Tensor]]:
    """The task, of zeros and two steps, and what it is differentiated by."""
    cell, T, B, H = find_cell(case.cell), 2, case.B, case.H
    N, M, leaves = len(cell.input_gates) * H, len(cell.recurrent_gates) * H, []

    def zeros(*shape: int) -> torch.Tensor:
        leaves.append(torch.zeros(*shape, dtype=getattr(torch, case.dtype), requires_grad=case.training))
        return leaves[-1]

    linear = zeros(N, 3), zeros(M, H), zeros(N), zeros(M)
    weights = Weights(*linear, tuple(zeros(H) for _ in cell.parameters))
    states = tuple(zeros(B, H) for _ in cell.states)
    return Task(
        cell, zeros(T, B, 3), states, weights,
        torch.ones(B, dtype=torch.int64) if case.masks else None,
        torch.zeros(T, B, dtype=torch.bool) if case.masks else None,
        tuple(zeros(B, H) for _ in cell.states) if case.fresh else None,
        case.reverse, case.all_states, inputs=tuple(zeros(T, B, 1) for _ in cell.inputs),
    ), leaves  # fmt: skip


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

"""What the first jobs of a run launch, as tasks whose kernels are compiled ahead of them.

A test that is new in one of those jobs may need one more here; a test of the tests says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from gatefuse.bench.suite.contenders import FIRST
from gatefuse.bench.suite.sweeps import groups
from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.loops.registry import KERNELS
from gatefuse.kernels.task import Task, Weights

_LARGEST_BLOCK = 128  # hidden units


class Case(NamedTuple):
    """A task whose kernels are compiled.

    Attributes:
        training: with the gradients of everything.
        lengths, resets, fresh, reverse, all_states, bias: it has those, as a task has them.
        both: two directions at once.
        delayed: in debug mode, in which programs pause.
    """

    cell: str
    loop: str
    B: int
    H: int
    dtype: str
    training: bool = True
    lengths: bool = False
    resets: bool = False
    fresh: bool = False
    reverse: bool = False
    all_states: bool = False
    bias: bool = True
    both: bool = False
    delayed: bool = False

    @property
    def title(self) -> str:
        way = "training" if self.training else "forward"
        masks = ", masks" if self.lengths or self.resets else ""
        return f"{self.loop} {self.cell} H{self.H} B{self.B} {self.dtype} {way}{masks}{', both' if self.both else ''}"


def cases() -> Iterator[Case]:
    """What the run's first jobs come to, the largest kernels first; each once."""
    found = [*_of_the_sweep(), *_right_at_all(), *_of_long_tests(), *_recorded(), *_both_directions()]
    return iter(sorted(dict.fromkeys(found), key=lambda case: (case.loop != "grid", -case.H)))


def _of_the_sweep() -> Iterator[Case]:
    for group in groups(FIRST, "cuda"):
        s = group.shape
        for loop in KERNELS:
            if loop != "block" or s.H <= _LARGEST_BLOCK:
                yield Case(s.cell, loop, s.B, s.H, group.dtype, group.mode == "training")


def _right_at_all() -> Iterator[Case]:
    """tests/kernels/drivers/test_drivers.py of three cells, and the shorter ones of test_gpu.py."""
    every = Case("gru_reset_first", "", 3, 7, "float32", lengths=True, resets=True, all_states=True)
    for loop in KERNELS:
        yield from (Case(cell, loop, 3, 7, "float32") for cell in ("lstm", "slstm"))
        yield every._replace(loop=loop, reverse=True)
        yield every._replace(loop=loop, bias=False)
        yield from (Case("lstm", loop, 16, 128, "bfloat16", training) for training in (False, True))
        yield Case("gru_reset_first", loop, 16, 128, "bfloat16")
    yield Case("lstm", "grid", 64, 1024, "bfloat16", False)
    for H, B in ((256, 16), (512, 16), (512, 300)):
        for delayed in (False, True):
            yield Case("gru_reset_first", "grid", B, H, "bfloat16", resets=True, delayed=delayed)


def _of_long_tests() -> Iterator[Case]:
    """The others of test_gpu.py."""
    for cell in ("lstm", "gru", "gru_reset_first"):
        for H, B in ((128, 16), (256, 16), (512, 64), (768, 16), (1024, 64), (512, 300)):
            yield Case(cell, "grid", B, H, "bfloat16", lengths=True, resets=True, fresh=True)
    yield Case("lstm", "grid", 64, 650, "bfloat16", False)
    yield Case("lstm", "grid", 80, 450, "bfloat16")
    for loop in ("step", "block"):
        for cell in ("gru", "lstm", "article_peephole_lstm"):
            yield from (Case(cell, loop, 16, H, "bfloat16", resets=True, fresh=True) for H in (64, 128))
        yield Case("gru_reset_first", loop, 16, 128 if loop == "block" else 256, "bfloat16", resets=True)
    yield from (Case("lstm", loop, 64, 128, "bfloat16", False, bias=False) for loop in KERNELS)


def _recorded() -> Iterator[Case]:
    """tests/kernels/runtime/graphs/test_recording.py."""
    plain = Case("lstm", "step", 3, 5, "float32")
    masked = plain._replace(lengths=True, resets=True)
    yield from (plain, plain._replace(reverse=True, all_states=True))
    yield from (masked._replace(cell=cell, fresh=True) for cell in ("lstm", "slstm"))
    for cell in ("lstm", "gru_reset_first"):
        yield masked._replace(cell=cell, reverse=True, bias=False, all_states=True)


def _both_directions() -> Iterator[Case]:
    """tests/kernels/loops/test_directions.py."""
    for loop in ("block", "grid"):
        both = Case("lstm", loop, 2, 7, "float32", both=True)
        masked = both._replace(lengths=True, resets=True, fresh=True, all_states=True)
        yield from (masked._replace(cell=cell) for cell in cell_names())
        yield from (both, both._replace(bias=False, resets=True), both._replace(cell="gru_reset_first"))


def make_tasks(case: Case) -> tuple[tuple[Task, ...], list[torch.Tensor]]:
    """The task, of zeros and two steps, or those of both directions, and what it is differentiated by."""
    cell, T, B, H = find_cell(case.cell), 2, case.B, case.H
    N, M, leaves = len(cell.input_gates) * H, len(cell.recurrent_gates) * H, []

    def zeros(*shape: int) -> torch.Tensor:
        leaves.append(torch.zeros(*shape, dtype=getattr(torch, case.dtype), requires_grad=case.training))
        return leaves[-1]

    def weights() -> Weights:
        of_input, of_states = (zeros(N), zeros(M)) if case.bias else (None, None)
        return Weights(zeros(N, 3), zeros(M, H), of_input, of_states, tuple(zeros(H) for _ in cell.parameters))

    task = Task(
        cell, zeros(T, B, 3), tuple(zeros(B, H) for _ in cell.states), weights(),
        torch.ones(B, dtype=torch.int64) if case.lengths else None,
        torch.zeros(T, B, dtype=torch.bool) if case.resets else None,
        tuple(zeros(B, H) for _ in cell.states) if case.fresh else None,
        case.reverse, case.all_states, inputs=tuple(zeros(T, B, 1) for _ in cell.inputs),
    )  # fmt: skip
    return (task, replace(task, weights=weights(), reverse=True)) if case.both else (task,), leaves

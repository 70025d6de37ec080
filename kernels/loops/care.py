"""Careful steps, of equations that no trace has shown: they may change what they are given, and leave weights out.

A cell that could be traced changes no tensor in place, and what its gradients reach is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.runtime.dynamo import constant
from gatefuse.kernels.task import Outcome


class Careful:
    """Steps of a cell's equations on copies of states and parameters, which they may change; nobody else has those.

    Torch doesn't count all changes (none through ``.data``, none in a compiled program), so that copies are made in any
    case.
    """

    def __init__(self, cell: Cell):
        self._cell = cell
        self._places: dict[int, tuple[Tensor, int]] = {}  # results by where they lie, with their step
        self._steps = 0

    def step(self, x: Any, R: Any, states: Sequence[Tensor], parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """As Cell.step.

        Raises:
            RuntimeError: parameters are changed, or one tensor is returned again and again.
        """
        given = {name: value.clone() for name, value in parameters.items()}
        before = _versions(given.values())
        new = self._cell.step(x, R, [s.clone() for s in states], given)
        if _versions(given.values()) != before:
            raise RuntimeError(f"{self._cell.name} must not change its parameters in place. Got a change in a step.")
        self._steps += 1
        for state in new:
            place = _place(state)
            if place and self._places.setdefault(place, (state, self._steps))[1] != self._steps:
                raise RuntimeError(
                    f"{self._cell.name} must return new states in each step. Got one that an earlier step returned."
                )
        return new


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each was changed in place, -1 where torch doesn't count."""
    return [-1 if t.is_inference() else t._version for t in tensors]


def _place(tensor: Tensor) -> int:
    """Where a tensor's memory begins, 0 where a transform or a tracer keeps that to itself or there is none."""
    if torch.compiler.is_compiling():
        return 0
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


def reached(cell: Cell, outcome: Outcome, inputs: Mapping[str, Sequence[Tensor | None]]) -> Outcome:
    """The outcome with zero added from each input that no gradient would reach, so that all have one, as in every
    other driver: torch's distributed training, for one, waits for all.

    Args:
        inputs: by a name as in Program.idle, the tensors of that name.
    """
    names = idle(cell.serial, not outcome.sequences[0].shape[0])
    tensors = [t for name in names for t in inputs[name] if t is not None and t.requires_grad]
    if not tensors:
        return outcome
    zero = torch.stack([t.flatten()[:0].sum() for t in tensors]).sum()  # whatever is in them
    return Outcome(tuple([s + zero for s in outcome.sequences]), tuple([s + zero for s in outcome.finals]))


@constant
def idle(serial: str, all_idle: bool = False) -> tuple[str, ...]:
    """The inputs of a cell that no gradient reaches, as far as is known."""
    version = Cell.by_serial(serial).current()
    if all_idle or version.refusal:
        return "x", "R", *version.states, *version.parameters
    return tuple(sorted(version.program.idle))

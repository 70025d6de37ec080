"""Care with equations that no trace has shown: they may change what they are given, and leave weights out.

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
    """Steps of a cell's equations, each on states that they may change; nobody else has those.

    Whether they do is seen in the first step, so that the states of others need no copies.
    """

    def __init__(self, cell: Cell):
        self._cell, self._copying = cell, True
        self._results: list[tuple[Tensor, int]] = []

    def step(self, x: Any, R: Any, states: Sequence[Tensor], parameters: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """As Cell.step.

        Raises:
            RuntimeError: parameters are changed, or states in a later step but not in the first.
        """
        given = [s.clone() for s in states] if self._copying else states
        before, own = _versions(given), _versions(parameters.values())
        new = self._cell.step(x, R, given, parameters)
        if _versions(parameters.values()) != own:
            raise RuntimeError(f"{self._cell.name} must not change its parameters in place. Got a change in a step.")
        changed = _versions(given) != before or _unknown(before)
        if changed and not self._copying:
            raise RuntimeError(
                f"{self._cell.name} must change its states in place from the first step on, or never. "
                f"Got a later change."
            )
        self._copying = changed
        self._results += zip(new, _versions(new), strict=True)
        return new

    def check(self) -> None:
        """To be called after the last step.

        Raises:
            RuntimeError: a state was changed after it was returned, as where a cell returns one tensor again and again.
        """
        tensors, versions = zip(*self._results, strict=True) if self._results else ((), ())
        if _versions(tensors) != list(versions) and not self._copying:
            raise RuntimeError(
                f"{self._cell.name} must return new states in each step. Got one that was changed later."
            )


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each was changed in place, -1 where torch doesn't count."""
    return [-1 if t.is_inference() else t._version for t in tensors]


def _unknown(versions: list[int]) -> bool:
    return -1 in versions


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

"""A cell whose equations are given noise in training, and without it are others.

In training it is a cell with further inputs beside its gates, which a layer draws; else an ordinary one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.inputs import read_inputs
from gatefuse.kernels.equations.sizes import HIDDEN, with_others


def draw(shape: Sequence[int], probability: float, value: float, like: Tensor) -> Tensor:
    """The value with that probability, else zero, by the generator of like's device and in its dtype."""
    # on a CPU a third of the time of bernoulli_, and as fine in every dtype
    uniform = torch.rand(shape, dtype=torch.float32, device=like.device)
    drawn = (uniform < probability).to(like.dtype)
    return drawn if value == 1 else drawn * value


class Noise(NamedTuple):
    """What is drawn for an input: a value with a probability, else zero; each number for itself.

    Attributes:
        name: the input's.
        probability: of the value.
        each_step: whether it is drawn anew in each step; else once a sequence.
        size: by its name.
    """

    name: str
    probability: float
    value: float
    each_step: bool
    size: str = HIDDEN

    def draw(self, rows: int, T: int, B: int, H: int, like: Tensor) -> Tensor:
        """Numbers for each layer and direction, sample and unit, (rows, T or 1, B, H), by the generator of like's
        device and in its dtype."""
        return draw((rows, T if self.each_step else 1, B, H), self.probability, self.value, like)


class NoisyCell(Cell):
    """A cell with noise, of another cell; ``zoneout`` and ``recurrent_dropout`` make it.

    Args:
        kind: what is done to the cell, as its name begins.
        of: the cell.
        noise: what is drawn besides the noise that ``of`` has.
        change: (equations, whether in training) -> the changed ones.
        again: a function and its arguments; with another cell after them it does the same to that. A pickle holds both.

    Attributes:
        noise: what is drawn in training, in the order of the last inputs of ``trained``.
    """

    def __init__(
        self,
        kind: str,
        of: Cell,
        noise: tuple[Noise, ...],
        change: Callable[[Callable[..., Any], bool], Callable[..., Any]],
        again: tuple[Callable[..., Cell], tuple[Any, ...]],
    ):
        name, given = f"{kind}_{of.name}", of.declaration

        def named(equations: Callable[..., Any], training: bool) -> Callable[..., Any]:
            changed: Any = change(equations, training)
            changed.__name__ = changed.__qualname__ = name
            changed.__module__, changed.__doc__ = of.__module__, of.__doc__
            changed.__wrapped__ = equations  # whose signature and lines it has
            return changed

        super().__init__(named(of.equations, False), given)
        self._of, self._again = of, again
        self.noise = *of.noise, *noise
        self._trained: Cell | None = None
        if self.noise:
            others = *given.states, *given.parameters, *dict(given.constants)
            names = " ".join([*given.inputs, *(each.name for each in self.noise)])
            inputs = read_inputs(name, given.gates, others, names)
            sizes = with_others(given.sizes, {each.name: each.size for each in self.noise})
            trained = given._replace(inputs=inputs, sizes=sizes)
            self._trained = _InTraining(named(of.trained.equations, True), trained)
            self._trained.whole = self

    @property
    def trained(self) -> Cell:
        return self if self._trained is None else self._trained

    def __repr__(self) -> str:
        drawn = ", ".join([f"{each.name} {each.value:g} with probability {each.probability:g}" for each in self.noise])
        return f"{super().__repr__()[:-1]}, {drawn or 'no noise'}>"

    def with_(self, **constants: float) -> Cell:
        make, given = self._again
        return make(*given, self._of.with_(**constants))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        make, given = self._again
        return make, (*given, self._of)


class _InTraining(Cell):
    """What a noisy cell is in training."""

    whole: NoisyCell

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return attrgetter("trained"), (self.whole,)


def checked_probability(what: str, value: Any) -> float:
    """A probability below 1, as a float.

    Raises:
        TypeError: it is no number.
        ValueError: it is below 0, or not below 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} must be a number. Got {value!r}.")
    if not 0 <= value < 1:
        raise ValueError(f"{what} must be at least 0 and below 1. Got {value}.")
    return float(value)

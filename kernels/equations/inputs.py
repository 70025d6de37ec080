"""x of a cell with inputs beside its gates: x.f is gate f of the input's product, x.a the input a as it was given.

An input is no gate: what is done to all gates of x, x + R(h) for one, leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gatefuse.kernels.equations.gates import Gates


class GatesAndInputs(Gates):
    """Gates, and beside them inputs by name, (B, H) each.

    Args:
        names, packed, parts, whole: as Gates'.
        beside: the inputs.
    """

    _beside: Mapping[str, Tensor]

    def __init__(
        self,
        beside: Mapping[str, Tensor],
        names: Sequence[str],
        packed: Tensor | None = None,
        parts: Sequence[Tensor] | None = None,
        whole: Sequence[str] = (),
    ):
        super().__init__(names, packed, parts, whole)
        self.__dict__["_beside"] = beside

    def __getattr__(self, name: str) -> Tensor:
        if name in self._beside:
            return self._beside[name]
        if self._beside and name not in self._names and name not in self._whole:
            known = ", ".join((*self._names, *self._beside))
            raise AttributeError(f"what is asked of x must be a gate or an input, one of {known}. Got {name}.")
        return super().__getattr__(name)


def cut(x: Tensor, gates: int, inputs: Sequence[str]) -> tuple[Tensor, dict[str, tuple[Tensor, ...]]]:
    """The gates' part of x (T, B, blocks * H), and the inputs' by name, a tensor (B, H) a step."""
    if not inputs:
        return x, {}
    blocks = gates + len(inputs)
    H = x.shape[2] // blocks
    of_gates, *beside = x.split([gates * H, *[H] * len(inputs)], 2)
    return of_gates, {name: part.unbind(0) for name, part in zip(inputs, beside, strict=True)}


def read_inputs(cell: str, gates: Sequence[str], others: Sequence[str], inputs: Any) -> tuple[str, ...]:
    """The names of inputs in the text that names them.

    Args:
        others: the names of the cell's states, parameters and constants.

    Raises:
        TypeError: they are not named in one text.
        ValueError: one is no name, is a gate's too or named twice, or generated code has a name for it that is taken.
    """
    if not isinstance(inputs, str):
        raise TypeError(f'inputs must be names in one text, separated by blanks, such as "age". Got {inputs!r}.')
    found = tuple(inputs.split())
    for k, name in enumerate(found):
        if not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"an input of {cell} must be a name without a leading underscore. Got {name!r}.")
        if name in gates:
            raise ValueError(f"an input of {cell} must not be named as a gate ({', '.join(gates)}). Got {name}.")
        if name in found[:k]:
            raise ValueError(f"the inputs of {cell} must differ. Got {name} twice.")
        if f"x_{name}" in others:
            raise ValueError(
                f"a state or parameter of {cell} must not have the name that generated code gives to an input. "
                f"Got x_{name} beside {name}."
            )
    return found

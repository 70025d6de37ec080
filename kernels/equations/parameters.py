"""What the keyword-only names of equations are: parameters, by unit or one for all units, and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

# A number, or a function that fills a tensor, as those of torch.nn.init.
FirstValue: TypeAlias = float | Callable[[Tensor], Any]


def as_number(what: str, value: Any) -> float:
    """A number as Python has it; ints and bools stay such, as equations may count or decide by them.

    Raises:
        TypeError: it is none.
    """
    if type(value) in (bool, int, float):
        return value
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{what} must be a number. Got {value!r}.") from None


def read_constants(cell: str, named: Sequence[str], constants: Any) -> dict[str, float]:
    """The constants among a cell's keyword-only names, in their order.

    Raises:
        TypeError: they are not given by name, or are no numbers.
        ValueError: the cell has no such name.
    """
    given = _by_name(cell, "constants", named, constants, "numbers")
    return {name: as_number(f"constant {name}", given[name]) for name in named if name in given}


def read_scalars(cell: str, parameters: Sequence[str], scalars: Any) -> tuple[str, ...]:
    """The parameters that are one number for all units, in their order.

    Raises:
        TypeError: they are not named in one text.
        ValueError: there is no such parameter, or it is named twice.
    """
    if not isinstance(scalars, str):
        raise TypeError(f'scalars must be names in one text, separated by blanks, such as "tau". Got {scalars!r}.')
    found = scalars.split()
    for k, name in enumerate(found):
        if name not in parameters:
            raise ValueError(f"scalars must name parameters of {cell} ({_listed(parameters)}). Got {name}.")
        if name in found[:k]:
            raise ValueError(f"scalars must name each parameter of {cell} once. Got {name} twice.")
    return tuple([name for name in parameters if name in found])


def read_first_values(cell: str, parameters: Sequence[str], parameter_init: Any) -> dict[str, FirstValue]:
    """What parameters begin with where it isn't torch.nn's random draw.

    Raises:
        TypeError: they are not given by name, or as neither a number nor a function.
        ValueError: there is no such parameter.
    """
    given = _by_name(cell, "parameter_init", parameters, parameter_init, "numbers or functions")
    found: dict[str, FirstValue] = {}
    for name, value in given.items():
        if callable(value):
            found[name] = value
            continue
        try:
            found[name] = float(as_number(name, value))
        except TypeError:
            raise TypeError(
                f"parameter_init of {name} must be a number, or a function that fills a tensor, such as "
                f"torch.nn.init.ones_. Got {value!r}."
            ) from None
    return found


def _by_name(cell: str, what: str, names: Sequence[str], given: Any, kind: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        example = f'{{"{names[0] if names else "rate"}": 1.0}}'
        raise TypeError(f"{what} must be {kind} by name, such as {example}. Got {given!r}.")
    if unknown := [name for name in given if name not in names]:
        rule = "keyword-only names" if what == "constants" else "parameters"
        raise ValueError(f"{what} must name {rule} of {cell} ({_listed(names)}). Got {unknown[0]}.")
    return dict(given)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"

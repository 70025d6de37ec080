"""The form of equations, f(x, R, state, ..., *, parameter, ...), the names in it, and what they may return."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell


def read_signature(equations: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    params = list(inspect.signature(equations).parameters.values())
    positional = [p for p in params if p.kind == p.POSITIONAL_OR_KEYWORD]
    named = [p for p in params if p.kind == p.KEYWORD_ONLY]
    rule = f"{equations.__name__} must have the form f(x, R, state, ..., *, parameter, ...)"
    if len(positional) + len(named) != len(params):
        raise TypeError(f"{rule}. Got {inspect.signature(equations)}.")
    if len(positional) < 3:
        raise TypeError(f"{rule} with at least one state. Got {inspect.signature(equations)}.")
    if any(p.default is not p.empty for p in params):
        raise TypeError(f"{rule} without defaults. Got {inspect.signature(equations)}.")
    return tuple(p.name for p in positional[2:]), tuple(p.name for p in named)


def check_names(cell: Cell) -> None:
    if not cell.gates:
        raise ValueError(f"gates must name at least one gate of {cell.name}. Got none.")
    for gate in cell.gates:
        if not gate.isidentifier() or gate.startswith("_"):
            raise ValueError(f"a gate of {cell.name} must be a name without a leading underscore. Got {gate!r}.")
    if len(set(cell.gates)) != len(cell.gates):
        raise ValueError(f"the gates of {cell.name} must differ. Got {' '.join(cell.gates)}.")
    generated = {f"{part}_{gate}" for part in "xra" for gate in cell.gates} | {f"d_{state}" for state in cell.states}
    for name in (*cell.states, *cell.parameters):
        if name in generated:
            raise ValueError(
                f"a state or parameter of {cell.name} must not have a name that generated code gives to a gate's or a "
                f"gradient's value ({', '.join(sorted(generated))}). Got {name}."
            )


def formed(cell: Cell, name: str, new: Any, old: Tensor) -> Tensor:
    """A new state in the form of the old: of parameters alone, (H,), it is the same for all samples."""
    if not isinstance(new, Tensor):
        raise TypeError(f"the new state {name} of {cell.name} must be a tensor. Got {type(new).__name__}.")
    if new.shape not in (old.shape, old.shape[-1:]):
        raise ValueError(
            f"the new state {name} of {cell.name} must have shape {tuple(old.shape)}. Got {tuple(new.shape)}."
        )
    return new.to(old.dtype).expand_as(old)

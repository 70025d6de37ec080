"""The form of equations, f(x, R, state, ..., *, parameter, ...), the names in it, and what they may return."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gatefuse.kernels.equations.gates import kind_of
from gatefuse.kernels.equations.parameters import as_number
from gatefuse.kernels.equations.tracing.place import beginning

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell


def read_gates(gates: Any) -> tuple[str, ...]:
    """The gates' names in the text that names them.

    Raises:
        TypeError: it is no text: the function to decorate, for one, or a list.
        ValueError: it names none.
    """
    if callable(gates):
        name = getattr(gates, "__name__", type(gates).__name__)
        raise TypeError(f'gatefuse.cell must be given the gates, as @gatefuse.cell(gates="i f"). Got {name} alone.')
    if not isinstance(gates, str):
        raise TypeError(f'gates must be names in one text, separated by blanks, such as "i f". Got {gates!r}.')
    return tuple(gates.split())


def read_sides(declared: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """All gates, those that the input feeds, and those that R feeds.

    Raises:
        ValueError: a side is neither x nor R, or the input feeds no gate.
    """
    pairs = [text.partition(":")[::2] for text in declared]
    for (_, side), text in zip(pairs, declared, strict=True):
        if ":" in text and side not in ("x", "R"):
            raise ValueError(f"a gate's side must be x or R, as in c:x. Got {text!r}.")
    fed = tuple([gate for gate, side in pairs if side != "R"])
    if pairs and not fed:
        raise ValueError(f"the input must feed at least one gate. Got {' '.join(declared)}.")
    return tuple([gate for gate, _ in pairs]), fed, tuple([gate for gate, side in pairs if side != "x"])


def read_biases(
    cell: str, declared: Sequence[str], fed: Sequence[str], recurrent: Sequence[str], bias: Any
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The gates that have a bias beside the input's product, and beside R's; all of them where ``bias`` is None.

    Raises:
        TypeError: it is no text.
        ValueError: it names what is no gate, a gate twice, or a side that a gate doesn't have.
    """
    if bias is None:
        return tuple(fed), tuple(recurrent)
    if not isinstance(bias, str):
        raise TypeError(f'bias must be names of gates in one text, such as "i n:x". Got {bias!r}.')
    gates = [text.partition(":")[0] for text in declared]
    sides: dict[str, str] = {}
    for text in bias.split():
        gate, colon, side = text.partition(":")
        if gate not in gates:
            raise ValueError(f"bias must name gates of {cell} ({', '.join(gates)}). Got {text}.")
        if gate in sides:
            raise ValueError(f"bias must name each gate of {cell} once. Got {gate} twice.")
        there = "x" * (gate in fed) + "R" * (gate in recurrent)
        if colon and (not side or side not in there):
            raise ValueError(
                f"a gate's bias must be on a side that it has, as c:x. Got {text} for {declared[gates.index(gate)]}."
            )
        sides[gate] = side or there
    return (
        tuple([gate for gate in fed if "x" in sides.get(gate, "")]),
        tuple([gate for gate in recurrent if "R" in sides.get(gate, "")]),
    )


def check_function(equations: Any) -> None:
    """Raises TypeError: what is to be made a cell is no function that returns values."""
    rule = "what gatefuse.cell makes a cell of must be a function f(x, R, state, ..., *, parameter, ...)"
    if isinstance(equations, type) or not callable(equations) or not hasattr(equations, "__name__"):
        kind = f"the class {equations.__name__}" if isinstance(equations, type) else type(equations).__name__
        raise TypeError(f"{rule}. Got {kind}.")
    if inspect.iscoroutinefunction(equations) or inspect.isgeneratorfunction(equations):
        kind = "a generator" if inspect.isgeneratorfunction(equations) else "async"
        raise TypeError(f"{rule} that returns the new states. Got {equations.__name__}, which is {kind}.")


def read_init(name: str, states: tuple[str, ...], init: Any) -> tuple[float, ...]:
    """The first value of each state of the cell of that name.

    Raises:
        TypeError: they are not given by the states' names, or are no numbers.
        ValueError: there is no such state.
    """
    if init is not None and not isinstance(init, Mapping):
        raise TypeError(f'init must be numbers by state, such as {{"{states[-1]}": 1.0}}. Got {init!r}.')
    given = dict(init or {})
    if unknown := [state for state in given if state not in states]:
        raise ValueError(f"init must name states of {name} ({', '.join(states)}). Got {unknown[0]}.")
    return tuple([float(as_number(f"init of {state}", given.get(state, 0.0))) for state in states])


def read_signature(equations: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    params = list(inspect.signature(equations).parameters.values())
    positional = [p for p in params if p.kind == p.POSITIONAL_OR_KEYWORD]
    named = [p for p in params if p.kind == p.KEYWORD_ONLY]
    rule = f"{equations.__name__} must have the form f(x, R, state, ..., *, parameter, ...)"
    if len(positional) + len(named) != len(params):
        raise TypeError(f"{rule}. Got {inspect.signature(equations)}.")
    if len(positional) < 3:
        raise TypeError(f"{rule} with at least one state. Got {inspect.signature(equations)}.")
    names = [p.name for p in params]
    if ("R" in names and names.index("R") != 1) or names[1] == "x":
        raise TypeError(f"{rule}, with x first and R second. Got {inspect.signature(equations)}.")
    if any(p.default is not p.empty for p in params):
        told = "a state's first value is of init=, a parameter's of parameter_init=, a number that stays of constants="
        raise TypeError(f"{rule} without defaults; {told}. Got {inspect.signature(equations)}.")
    return tuple(p.name for p in positional[2:]), tuple(p.name for p in named)


def check_names(cell: str, gates: Sequence[str], states: Sequence[str], parameters: Sequence[str]) -> None:
    """Raises ValueError: names of the cell of that name are none, or the same, or generated code's."""
    if not gates:
        raise ValueError(f"gates must name at least one gate of {cell}. Got none.")
    for gate in gates:
        if "," in gate:
            raise ValueError(f"the gates of {cell} must be separated by blanks alone. Got {gate!r}.")
        if not gate.isidentifier() or gate.startswith("_"):
            raise ValueError(f"a gate of {cell} must be a name without a leading underscore. Got {gate!r}.")
    if len(set(gates)) != len(gates):
        raise ValueError(f"the gates of {cell} must differ. Got {' '.join(gates)}.")
    generated = {f"{part}_{gate}" for part in "xra" for gate in gates} | {f"d_{state}" for state in states}
    for name in (*states, *parameters):
        if name in generated:
            raise ValueError(
                f"a state or parameter of {cell} must not have a name that generated code gives to a gate's or a "
                f"gradient's value ({', '.join(sorted(generated))}). Got {name}."
            )


def one_for_each(cell: Cell, returned: Any) -> tuple[Any, ...]:
    """What equations return, as a tuple of as many values as there are states.

    Raises:
        TypeError: a list or a dict, which no cell returns.
        ValueError: too few or too many.
    """
    S, names = len(cell.states), ", ".join(cell.states)
    form = f"a tuple of its new states ({names})" if S > 1 else f"its new state {names}, a tensor"
    if isinstance(returned, (list, dict)):
        raise TypeError(f"{cell.name} must return {form}. Got a {type(returned).__name__}{beginning(cell.equations)}.")
    values = returned if isinstance(returned, tuple) else (returned,)
    if len(values) != S:
        got = f"{len(values)} value{'s' if len(values) != 1 else ''}{beginning(cell.equations)}"
        raise ValueError(f"{cell.name} must return {form}. Got {got}.")
    return values


def formed(cell: Cell, name: str, new: Any, old: Tensor) -> Tensor:
    """A new state in the form of the old: of parameters alone, (H,), it is the same for all samples."""
    if not isinstance(new, Tensor):
        got = f"{kind_of(new)}{beginning(cell.equations)}"
        raise TypeError(f"the new state {name} of {cell.name} must be a tensor. Got {got}.")
    if new.shape not in (old.shape, old.shape[-1:]):
        raise ValueError(
            f"the new state {name} of {cell.name} must have shape {tuple(old.shape)}. "
            f"Got {tuple(new.shape)}{beginning(cell.equations)}."
        )
    return new.to(old.dtype).expand_as(old)

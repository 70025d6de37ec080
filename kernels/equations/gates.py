"""What equations are given beside their states, each value of it by gate: x, and what R gives (recurrence.py).

``x.f`` is gate f's, ``R(v)`` the recurrent product for all gates and ``R.f(v)`` for gate f alone. Operators and torch's
functions take all gates at once too, and do to each what they would do to it alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Given:
    """What equations are given, and leave as it is: a gate that was set would be another for those who ask by order."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(f"a gate must stay as it is; give a new value a name of its own. Got {name} set.")
        object.__setattr__(self, name, value)


class Gates(Given):
    """Values by gate: ``a.f`` is gate f's, ``i, f, g, o = a`` unpacks them, ``x + R(h)`` adds gate by gate, and so does
    any function of torch's: ``sigmoid(a)`` has the gates of a.

    Args:
        names: the gates that these are values of.
        packed: one tensor of shape (..., gates * H), cut only when a gate is asked for.
        parts: in its place, a tensor of shape (..., H) for each gate.
        whole: all gates of the cell, in their order, where these are some of them; x and R of such a cell may have
            different ones, and their sum has a gate's one side where it has no other.
    """

    _names: Sequence[str]
    _packed: Tensor | None
    _parts: Sequence[Tensor] | None
    _whole: Sequence[str]

    def __init__(
        self,
        names: Sequence[str],
        packed: Tensor | None = None,
        parts: Sequence[Tensor] | None = None,
        whole: Sequence[str] = (),
    ):
        own = self.__dict__  # one is made in each step, and __setattr__ costs as much as the rest
        own["_names"] = names
        own["_packed"] = packed
        own["_parts"] = parts
        own["_whole"] = whole or names

    def __iter__(self):
        if self._parts is None:
            assert self._packed is not None
            self._parts = cut_gates(self._packed, len(self._names), -1)
        return iter(self._parts)

    def __getattr__(self, name: str) -> Tensor:
        if name not in self._names:
            form = f"; of all gates it is torch.{name}(a)" if callable(getattr(torch, name, None)) else ""
            side = f", as {name} is declared without this side" if name in self._whole else form
            raise AttributeError(f"a gate must be one of {', '.join(self._names)}{side}. Got {name}.")
        return tuple(self)[self._names.index(name)]

    def __getitem__(self, key: Any) -> Tensor:
        raise TypeError(f"a gate must be asked for by its name, as a.{self._names[0]}. Got a[{key!r}].")

    def __call__(self, *_: Any) -> Gates:
        raise TypeError(f"a gate must be asked for by its name, as x.{self._names[0]}; R alone is called. Got a call.")

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Gates:
        """A function of torch's, done to each gate alone: nothing mixes what belongs to different gates."""
        return by_gate(func, args, kwargs or {})

    def _with(self, other: Any, op: Callable[[Any, Any], Any]) -> Gates:
        if self._packed is not None and isinstance(other, Gates) and other._packed is not None:
            same = self._names is other._names or self._names == other._names
            if same:
                return Gates(self._names, op(self._packed, other._packed), whole=self._whole)
        return by_gate(op, (self, other), {})

    def __add__(self, other: Any) -> Gates:
        if isinstance(other, Gates) and other._names != self._names:
            names = [name for name in self._whole if name in self._names or name in other._names]
            return Gates(names, parts=[_sum(name, self, other) for name in names], whole=self._whole)
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> Gates:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> Gates:
        return self._with(other, operator.mul)

    def __truediv__(self, other: Any) -> Gates:
        return self._with(other, operator.truediv)

    def __pow__(self, other: Any) -> Gates:
        return self._with(other, operator.pow)

    def __radd__(self, other: Any) -> Gates:
        return by_gate(operator.add, (other, self), {})

    def __rsub__(self, other: Any) -> Gates:
        return by_gate(operator.sub, (other, self), {})

    def __rmul__(self, other: Any) -> Gates:
        return by_gate(operator.mul, (other, self), {})

    def __rtruediv__(self, other: Any) -> Gates:
        return by_gate(operator.truediv, (other, self), {})

    def __neg__(self) -> Gates:
        return by_gate(operator.neg, (self,), {})

    def __lt__(self, other: Any) -> Gates:
        return by_gate(operator.lt, (self, other), {})

    def __le__(self, other: Any) -> Gates:
        return by_gate(operator.le, (self, other), {})

    def __gt__(self, other: Any) -> Gates:
        return by_gate(operator.gt, (self, other), {})

    def __ge__(self, other: Any) -> Gates:
        return by_gate(operator.ge, (self, other), {})

    def __eq__(self, other: Any) -> Gates:  # type: ignore[override]
        return by_gate(operator.eq, (self, other), {})

    def __ne__(self, other: Any) -> Gates:  # type: ignore[override]
        return by_gate(operator.ne, (self, other), {})

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("a condition must not be of all gates at once; torch.where selects for each. Got one.")


def kind_of(value: Any) -> str:
    """What a message calls a value that should be a tensor: its type, and of all gates at once how to have one."""
    if isinstance(value, Gates):
        return f"{type(value).__name__}, of which each gate is one, as a.{value._names[0]}"
    return type(value).__name__


def _sum(name: str, *sides: Gates) -> Tensor:
    """A gate's sum of the sides that it has."""
    found = [getattr(side, name) for side in sides if name in side._names]
    return found[0] if len(found) == 1 else found[0] + found[1]


def has_gates(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function's arguments hold values by gate."""
    return next(_found((*args, *kwargs.values())), None) is not None


def by_gate(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Gates:
    """A function's results for each gate, of its arguments with that gate's values in the place of all gates'.

    Raises:
        TypeError: it changes a tensor in place, or its result for a gate is no tensor.
    """
    # torch's compiler can't follow a look at names
    if not torch.compiler.is_compiling() and (_changes(name_of(func)) or kwargs.get("out") is not None):
        raise TypeError(f"a function of all gates must change no tensor in place. Got {name_of(func)}.")
    found = list(_found((*args, *kwargs.values())))
    names = found[0]._names
    if others := [each._names for each in found if each._names != names]:
        sides = " and ".join(" ".join(each) for each in (names, others[0]))
        raise TypeError(f"what is done to all gates at once must be of the same gates, but a sum. Got {sides}.")
    results = []
    for name in names:
        result = func(*[_of(a, name) for a in args], **{k: _of(a, name) for k, a in kwargs.items()})
        if not isinstance(result, Tensor):
            got = f"{type(result).__name__} by {name_of(func)}"
            raise TypeError(f"a function of all gates must give a tensor for each of them. Got {got}.")
        results.append(result)
    return Gates(names, parts=results, whole=found[0]._whole)


def name_of(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", "a function")


def _changes(name: str) -> bool:
    """Whether a function of that name changes what it is given: add_, ``+=`` or ``v[0] = ``."""
    special = name.startswith("__") and name.endswith("__")
    operators = name in ("__set__", "__setitem__") or name[2:-2] in ("iadd", "isub", "imul", "itruediv", "ipow")
    return operators if special else name.endswith("_")


def _found(values: Iterable[Any]) -> Iterator[Gates]:
    for value in values:
        if isinstance(value, Gates):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _found(value)


def _of(value: Any, name: str) -> Any:
    """A gate's part of an argument."""
    if isinstance(value, Gates):
        return getattr(value, name)
    return type(value)([_of(each, name) for each in value]) if type(value) in (tuple, list) else value


def cut_gates(values: Tensor, G: int, dim: int, grad: bool = True) -> tuple[Tensor, ...]:
    """The gates' parts, with gradients also where equations look at a gate under no_grad: a name is no operation, and
    what is cut is kept for others who ask. Without ``grad`` nobody asks for any."""
    if grad and values.requires_grad and not torch.is_grad_enabled():
        with torch.enable_grad():
            return values.chunk(G, dim)
    return values.chunk(G, dim)

"""What equations are given beside their states: x and R, each value of them by gate.

``x.f`` is gate f's, ``R(v)`` the recurrent product for all gates and ``R.f(v)`` for gate f alone. Operators and torch's
functions take all gates at once too, and do to each what they would do to it alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


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
            self._parts = _cut(self._packed, len(self._names), -1)
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
    if not torch.compiler.is_compiling() and (_changes(_name(func)) or kwargs.get("out") is not None):
        raise TypeError(f"a function of all gates must change no tensor in place. Got {_name(func)}.")
    found = list(_found((*args, *kwargs.values())))
    names = found[0]._names
    if others := [each._names for each in found if each._names != names]:
        sides = " and ".join(" ".join(each) for each in (names, others[0]))
        raise TypeError(f"what is done to all gates at once must be of the same gates, but a sum. Got {sides}.")
    results = []
    for name in names:
        result = func(*[_of(a, name) for a in args], **{k: _of(a, name) for k, a in kwargs.items()})
        if not isinstance(result, Tensor):
            got = f"{type(result).__name__} by {_name(func)}"
            raise TypeError(f"a function of all gates must give a tensor for each of them. Got {got}.")
        results.append(result)
    return Gates(names, parts=results, whole=found[0]._whole)


def _name(func: Callable[..., Any]) -> str:
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


class Uncalled(Given):
    """What must be called with a vector, and is no value itself: R, or R of a gate. torch asks it before it computes
    with it."""

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # no TypeError, of which Tensor's operators make one of their own
        raise ValueError(
            f"R must be called with a vector, as R(h), or R.f(h) for gate f. Got R itself in {_name(func)}."
        )


class OfGate(Uncalled):
    """The recurrent product for one gate, of a function that computes it."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self._function = function

    def __call__(self, vector: Tensor) -> Tensor:
        return self._function(vector)


class Recurrence(Uncalled):
    """The product with the recurrent weights: ``R(v)`` for all gates, ``R.f(v)`` for gate f.

    Args:
        names: the G gates that have a product.
        weight: (G * H, H), gate by gate as torch.nn lays it out.
        bias: (G * H,) or None.
        whole: all gates of the cell, where these are some of them.
    """

    def __init__(self, names: Sequence[str], weight: Tensor, bias: Tensor | None, whole: Sequence[str] = ()):
        self._names = names
        self._weight = weight
        self._bias = bias
        self._whole = whole or names
        self._grad = torch.is_grad_enabled()

    def __call__(self, vector: Tensor) -> Gates:
        return Gates(self._names, _product(vector, self._weight, self._bias), whole=self._whole)

    def __getattr__(self, name: str) -> Callable[[Tensor], Tensor]:
        check_gate(name, self._names, self._whole)
        k, G = self._names.index(name), len(self._names)
        weight = _cut(self._weight, G, 0, self._grad)[k]
        bias = None if self._bias is None else _cut(self._bias, G, 0, self._grad)[k]
        product = OfGate(lambda vector: _product(vector, weight, bias))
        self.__dict__[name] = product  # cut once a sequence, not once a step
        return product


def check_gate(name: str, names: Sequence[str], whole: Sequence[str]) -> None:
    """Raises AttributeError: R was asked for what is no gate, or for one that only the input feeds."""
    if name not in names:
        side = f", as {name} is declared without this side" if name in whole else ""
        raise AttributeError(f"a gate of R must be one of {', '.join(names) or '(none)'}{side}. Got {name}.")


def _product(vector: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In the weights' dtype, whatever the vector was made of: (h > 0).float(), for one."""
    try:
        return linear(vector if vector.dtype == weight.dtype else vector.to(weight.dtype), weight, bias)
    except (AttributeError, RuntimeError):
        if not isinstance(vector, Tensor):
            raise TypeError(f"what R multiplies must be a tensor. Got {type(vector).__name__}.") from None
        if vector.shape[-1:] != weight.shape[1:]:
            raise ValueError(
                f"what R multiplies must have a state's shape, (..., {weight.shape[1]}). Got {tuple(vector.shape)}."
            ) from None
        raise


def _cut(values: Tensor, G: int, dim: int, grad: bool = True) -> tuple[Tensor, ...]:
    """The gates' parts, with gradients also where equations look at a gate under no_grad: a name is no operation, and
    what is cut is kept for others who ask. Without ``grad`` nobody asks for any."""
    if grad and values.requires_grad and not torch.is_grad_enabled():
        with torch.enable_grad():
            return values.chunk(G, dim)
    return values.chunk(G, dim)

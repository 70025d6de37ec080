"""A cell is its equations: what a person writes, and what can be read off it without running it.

    @gatefuse.cell(gates="i f g o")
    def lstm(x, R, h, c):
        a = x + R(h)
        c = sigmoid(a.f) * c + sigmoid(a.i) * tanh(a.g)
        return sigmoid(a.o) * tanh(c), c

``x`` holds W_ih x_t + b_ih by gate, ``R(v)`` is W_hh v + b_hh by gate and ``R.f(v)`` its part for gate f alone. The
other positional names are the states, the first of which is the output; keyword-only names are per-unit parameters.
Nothing is traced or compiled here: see trace.py.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.functional import linear

if TYPE_CHECKING:
    from gatefuse.kernels.program import Program


class Gates:
    """Values by gate: ``a.f`` is gate f's, ``i, f, g, o = a`` unpacks them, ``x + R(h)`` adds gate by gate.

    Args:
        names: the G gates.
        packed: one tensor of shape (..., G * H), cut only when a gate is asked for.
        parts: in its place, G tensors of shape (..., H).
    """

    def __init__(self, names: Sequence[str], packed: Tensor | None = None, parts: Sequence[Tensor] | None = None):
        self._names = names
        self._packed = packed
        self._parts = parts

    def __iter__(self):
        if self._parts is None:
            assert self._packed is not None
            self._parts = self._packed.chunk(len(self._names), -1)
        return iter(self._parts)

    def __getattr__(self, name: str) -> Tensor:
        if name not in self._names:
            raise AttributeError(f"a gate must be one of {', '.join(self._names)}. Got {name}.")
        return tuple(self)[self._names.index(name)]

    def _with(self, other: Any, op: Callable[[Any, Any], Any]) -> Gates:
        if isinstance(other, Gates):
            if self._packed is not None and other._packed is not None:
                return Gates(self._names, op(self._packed, other._packed))
            return Gates(self._names, parts=[op(a, b) for a, b in zip(self, other, strict=True)])
        return Gates(self._names, parts=[op(a, other) for a in self])

    def __add__(self, other: Any) -> Gates:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> Gates:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> Gates:
        return self._with(other, operator.mul)

    def __radd__(self, other: Any) -> Gates:
        return self._with(other, operator.add)

    def __rmul__(self, other: Any) -> Gates:
        return self._with(other, operator.mul)


class Recurrence:
    """The product with the recurrent weights: ``R(v)`` for all gates, ``R.f(v)`` for gate f.

    Args:
        names: the G gates.
        weight: (G * H, H), gate by gate as torch.nn lays it out.
        bias: (G * H,) or None.
    """

    def __init__(self, names: Sequence[str], weight: Tensor, bias: Tensor | None):
        self._names = names
        self._weight = weight
        self._bias = bias

    def __call__(self, vector: Tensor) -> Gates:
        return Gates(self._names, linear(vector, self._weight, self._bias))

    def __getattr__(self, name: str) -> Callable[[Tensor], Tensor]:
        if name not in self._names:
            raise AttributeError(f"a gate of R must be one of {', '.join(self._names)}. Got {name}.")
        k, G = self._names.index(name), len(self._names)
        weight = self._weight.chunk(G)[k]
        bias = None if self._bias is None else self._bias.chunk(G)[k]
        product = lambda vector: linear(vector, weight, bias)  # noqa: E731
        self.__dict__[name] = product  # cut once a sequence, not once a step
        return product


class Cell:
    """A recurrent cell, known by its equations. Made by ``gatefuse.cell``.

    Attributes:
        name: the function's name.
        key: a name no other cell in this process has; operators carry it.
        gates: names of the G gates, in the order of the weights' rows.
        states: names of the S states; the first is the output.
        parameters: names of the per-unit parameters, each of shape (H,).
        init: the value each state starts from where none is given.
    """

    _by_key: dict[str, Cell] = {}  # noqa: RUF012

    def __init__(
        self,
        equations: Callable[..., Tensor | tuple[Tensor, ...]],
        gates: Sequence[str],
        init: Mapping[str, float] | None = None,
    ):
        self.equations = equations
        self.name = equations.__name__
        self.gates = tuple(gates)
        self.states, self.parameters = _read_signature(equations)
        _check_names(self)
        init = dict(init or {})
        if unknown := sorted(init.keys() - set(self.states)):
            raise ValueError(f"init must name states of {self.name} ({', '.join(self.states)}). Got {unknown[0]}.")
        self.init = tuple(float(init.get(state, 0.0)) for state in self.states)
        self.key = self.name if self.name not in Cell._by_key else f"{self.name}-{len(Cell._by_key)}"
        Cell._by_key[self.key] = self
        self.__doc__ = equations.__doc__
        self.__module__ = equations.__module__
        self.__qualname__ = equations.__qualname__

    @staticmethod
    def by_key(key: str) -> Cell:
        """The cell that an operator's ``cell`` argument names."""
        try:
            return Cell._by_key[key]
        except KeyError:
            raise ValueError(f"cell must be the key of a cell defined in this process. Got {key!r}.") from None

    @cached_property
    def program(self) -> Program:
        """The traced equations: stages, products, forward and backward. Traced once, when first asked for."""
        from gatefuse.kernels.trace import trace

        return trace(self)

    def step(
        self, x: Gates, R: Recurrence, states: Sequence[Tensor], parameters: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """One step of the equations as they were written: the new states, each (B, H)."""
        out = self.equations(x, R, *states, **parameters)
        out = out if isinstance(out, tuple) else (out,)
        if len(out) != len(self.states):
            raise ValueError(
                f"{self.name} must return its {len(self.states)} states ({', '.join(self.states)}). "
                f"Got {len(out)} values."
            )
        return out

    def __repr__(self) -> str:
        return f"<cell {self.name}: gates {' '.join(self.gates)}, states {' '.join(self.states)}>"

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        # As functions are: by reference, and by value by those who do so with functions, as cloudpickle in __main__. By
        # this name the function is found where the cell is, which has taken its own.
        if protocol < 4:  # dotted names are not for these
            return self.__qualname__
        self.equations.__qualname__ = f"{self.__qualname__}.equations"
        return _unpickled, (self.equations, self.gates, self.init)

    def __copy__(self) -> Cell:
        return self

    def __deepcopy__(self, memo: dict) -> Cell:
        return self


def _unpickled(equations: Callable[..., Any], gates: Sequence[str], init: Sequence[float]) -> Cell:
    """The cell of these equations: the one that was referred to, or where their value came along, a new one."""
    qualname = equations.__qualname__.removesuffix(".equations")
    found: Any = sys.modules.get(equations.__module__)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if isinstance(found, Cell) and found.equations is equations:
        return found
    equations.__qualname__ = qualname
    return Cell(equations, gates, dict(zip(_read_signature(equations)[0], init, strict=True)))


def cell(gates: str, init: Mapping[str, float] | None = None) -> Callable[[Callable[..., Any]], Cell]:
    """Make a cell of a function ``f(x, R, state, ..., *, parameter, ...)`` that holds its equations.

    In the function ``x.f`` is gate f of W_ih x_t + b_ih, (B, H); ``R.f(v)`` is gate f of W_hh v + b_hh for any vector v
    (B, H), and ``R(v)`` are all gates; states are (B, H) each, parameters (H,). It returns the new states in their
    order, the output first. It is traced later, when somebody asks for code; if none can be made, it runs eagerly.

    Args:
        gates: the gates' names, separated by blanks, in the order of the weights' rows.
        init: first values of states that don't start from zero.

    Returns:
        A decorator that makes the Cell.

    Raises:
        TypeError: the signature is not ``(x, R, state, ..., *, parameter, ...)``.
        ValueError: a gate is named twice or is not a name; ``init`` names no state.
    """
    return lambda equations: Cell(equations, gates.split(), init)


def _read_signature(equations: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
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


def _check_names(cell: Cell) -> None:
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

"""What equations are given beside their states: x and R, each value of them by gate.

``x.f`` is gate f's, ``R(v)`` the recurrent product for all gates and ``R.f(v)`` for gate f alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


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
            self._parts = _cut(self._packed, len(self._names), -1)
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
        self._grad = torch.is_grad_enabled()

    def __call__(self, vector: Tensor) -> Gates:
        return Gates(self._names, _product(vector, self._weight, self._bias))

    def __getattr__(self, name: str) -> Callable[[Tensor], Tensor]:
        if name not in self._names:
            raise AttributeError(f"a gate of R must be one of {', '.join(self._names)}. Got {name}.")
        k, G = self._names.index(name), len(self._names)
        weight = _cut(self._weight, G, 0, self._grad)[k]
        bias = None if self._bias is None else _cut(self._bias, G, 0, self._grad)[k]
        product = lambda vector: _product(vector, weight, bias)  # noqa: E731
        self.__dict__[name] = product  # cut once a sequence, not once a step
        return product


def _product(vector: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """In the weights' dtype, whatever the vector was made of: (h > 0).float(), for one."""
    return linear(vector if vector.dtype == weight.dtype else vector.to(weight.dtype), weight, bias)


def _cut(values: Tensor, G: int, dim: int, grad: bool = True) -> tuple[Tensor, ...]:
    """The gates' parts, with gradients also where equations look at a gate under no_grad: a name is no operation, and
    what is cut is kept for others who ask. Without ``grad`` nobody asks for any."""
    if grad and values.requires_grad and not torch.is_grad_enabled():
        with torch.enable_grad():
            return values.chunk(G, dim)
    return values.chunk(G, dim)

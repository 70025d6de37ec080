"""R as equations have it: the product with the recurrent weights, of any vector, for all gates or for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from gatefuse.kernels.equations.gates import Gates, Given, cut_gates, kind_of, name_of


class Uncalled(Given):
    """What must be called with a vector, and is no value itself: R, or R of a gate. torch asks it before it computes
    with it."""

    def _scaled(self, by: Tensor) -> Scaled:
        """R of what is multiplied by these numbers (B, H) first."""
        return Scaled(self, by)

    def _scaled_by_gate(self, by: Mapping[str, Tensor], whole: Sequence[str]) -> ScaledByGate:
        """The same with numbers for each recurrent gate, of all gates of a cell."""
        return ScaledByGate(self, by, whole)

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # no TypeError, of which Tensor's operators make one of their own
        raise ValueError(
            f"R must be called with a vector, as R(h), or R.f(h) for gate f. Got R itself in {name_of(func)}."
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
        weight = cut_gates(self._weight, G, 0, self._grad)[k]
        bias = None if self._bias is None else cut_gates(self._bias, G, 0, self._grad)[k]
        product = OfGate(lambda vector: _product(vector, weight, bias))
        self.__dict__[name] = product  # cut once a sequence, not once a step
        return product


class Scaled(Uncalled):
    """R of what is multiplied by ``by`` first."""

    def __init__(self, R: Any, by: Tensor):
        self._R, self._by = R, by

    def __call__(self, vector: Tensor) -> Gates:
        return self._R(vector * self._by)

    def __getattr__(self, name: str) -> OfGate:
        product = getattr(self._R, name)
        return OfGate(lambda vector: product(vector * self._by))


class ScaledByGate(Uncalled):
    """R of what is multiplied first, for each recurrent gate by numbers of its own: of the size that R multiplies."""

    def __init__(self, R: Any, by: Mapping[str, Tensor], whole: Sequence[str]):
        self._R, self._by, self._whole = R, by, whole

    def __call__(self, vector: Tensor) -> Gates:
        return Gates(tuple(self._by), parts=[self._product(gate, vector) for gate in self._by], whole=self._whole)

    def __getattr__(self, name: str) -> OfGate:
        getattr(self._R, name)
        return OfGate(partial(self._product, name))

    def _product(self, gate: str, vector: Tensor) -> Tensor:
        by = self._by[gate]
        with torch._C.DisableTorchFunction():  # a trace would take it for a question of the equations'
            fits = by.shape[-1] in (1, vector.shape[-1])
        # for all gates R is asked of those, too, that multiply another size, and which nobody uses
        return getattr(self._R, gate)(vector * by if fits else vector)


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
            raise TypeError(f"what R multiplies must be a tensor. Got {kind_of(vector)}.") from None
        if vector.shape[-1:] != weight.shape[1:]:
            raise ValueError(
                f"what R multiplies must have a state's shape, (..., {weight.shape[1]}). Got {tuple(vector.shape)}."
            ) from None
        raise

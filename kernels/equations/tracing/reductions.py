"""Reductions over a row's units as torch's functions name them, each made of what a trace is cut at: means, or the
largest value.

A mean is of the size of what it is of, where a sum may be too large for 16 bits; so means are what drivers compute.

Of a state's shape (B, H) they are over the last dimension, which stays: v.mean(-1, keepdim=True).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from gatefuse.kernels.equations.operators import REDUCTIONS, TranslationError

# Names of arguments after the tensor, in their order, and those that are given by name alone.
_ARGUMENTS = dict.fromkeys(REDUCTIONS, ("dim", "keepdim")) | {"var": ("dim", "unbiased", "keepdim")}
_NAMED = {name: frozenset(("dtype",)) for name in REDUCTIONS} | {
    "var": frozenset(("correction",)),
    "amax": frozenset(),
}


def reduced(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], cut: Callable[[str, Tensor], Tensor], share: Tensor
) -> Tensor:
    """What torch's function of that name gives, made of what ``cut`` gives: of "mean" or "amax" and a vector, that of
    its units.

    Args:
        share: one part of as many as there are units.

    Raises:
        TranslationError: it goes over more than the units, or its result has another form.
    """
    names = "input", *_ARGUMENTS[name]
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    over_units = given.get("dim") in (-1, (-1,), [-1])
    other = len(args) > len(names) or set(given) - {*names, *_NAMED[name]}
    if not over_units or given.get("keepdim") is not True or given.get("dtype") is not None or other:
        asked = ", ".join(f"{key}={value}" for key, value in given.items() if key != "input") or "neither"
        raise TranslationError(
            f"must reduce over the units and keep the dimension, as v.{name}(-1, keepdim=True). Got {name} with {asked}"
        )
    vector = given["input"]
    if name == "amax":
        return cut("amax", vector)
    of_units = cut("mean", vector)
    if name == "mean":
        return of_units
    if name == "sum":
        return of_units / share
    apart = vector - of_units
    spread, correction = cut("mean", apart * apart), _correction(given)
    return spread / (1 - correction * share) if correction else spread


def _correction(given: Mapping[str, Any]) -> float:
    """What a variance subtracts from the number of units."""
    unbiased, correction = given.get("unbiased"), given.get("correction")
    if unbiased is not None:
        return float(bool(unbiased))
    return 1.0 if correction is None else float(correction)

"""Layer normalization as equations use it, of one vector or of all gates together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from gatefuse.kernels.equations.gates import Gates

Vectors = TypeVar("Vectors", Tensor, Gates, tuple[Tensor, ...])
OfUnits: TypeAlias = "Tensor | Sequence[Tensor] | Gates | None"


def layer_norm(v: Vectors, gain: OfUnits = None, bias: OfUnits = None, eps: float = 1e-5) -> Vectors:
    """Have a sample's values mean 0 and variance 1, then multiply by a gain and add a bias.

        (v - mean) / sqrt(variance + eps) * gain + bias

    Mean and variance, which divides by the number of values, are over the units of one vector, or where several are
    given, over all of theirs: of ``R(h)`` over the gates * H summed inputs. Source: J. L. Ba, J. R. Kiros and G. E.
    Hinton, Layer Normalization (2016, arXiv:1607.06450).

    Args:
        v: a vector (B, H), values by gate such as ``R(h)``, or a tuple of vectors, ``(a.r, a.z)``.
        gain: the cell's parameter (H,), or for several vectors a tuple of one for each, in their order; None for 1.
        bias: the same; None for 0.
        eps: is added to the variance.

    Returns:
        The same as v: a vector, values by gate, or a tuple.

    Raises:
        TypeError: v is none of these.
        ValueError: there are more or fewer gains or biases than vectors.
    """
    if isinstance(v, Tensor):
        return _normalized((v,), _for_each("gain", gain, 1), _for_each("bias", bias, 1), eps)[0]
    if not isinstance(v, (Gates, tuple)) or not all(isinstance(each, Tensor) for each in v):
        raise TypeError(f"v must be a vector, values by gate or a tuple of vectors. Got {type(v).__name__}.")
    vectors = tuple(v)
    n = len(vectors)
    found = _normalized(vectors, _for_each("gain", gain, n), _for_each("bias", bias, n), eps)
    return Gates(v._names, parts=found, whole=v._whole) if isinstance(v, Gates) else found


def _for_each(name: str, given: OfUnits, count: int) -> tuple[Tensor | None, ...]:
    """A gain or a bias for each vector."""
    if given is None:
        return (None,) * count
    found = (given,) if isinstance(given, Tensor) else tuple(given)
    if len(found) != count:
        rule = f"{name} must be a parameter for each of {count} vectors, in their order" if count > 1 else ""
        raise ValueError(f"{rule or f'{name} must be one parameter for one vector'}. Got {len(found)}.")
    return found


def _normalized(
    vectors: Sequence[Tensor], gains: Sequence[Tensor | None], biases: Sequence[Tensor | None], eps: float
) -> tuple[Tensor, ...]:
    mean = _mean(vectors)
    apart = [v - mean for v in vectors]
    scale = torch.rsqrt(_mean([v * v for v in apart]) + eps)
    found = []
    for v, gain, bias in zip(apart, gains, biases, strict=True):
        v = v * scale
        v = v if gain is None else v * gain
        found.append(v if bias is None else v + bias)
    return tuple(found)


def _mean(vectors: Sequence[Tensor]) -> Tensor:
    """Over the units of all, (B, 1): the vectors are added first, so that there is one reduction."""
    total = vectors[0]
    for v in vectors[1:]:
        total = total + v
    mean = total.mean(-1, keepdim=True)
    return mean if len(vectors) == 1 else mean / len(vectors)

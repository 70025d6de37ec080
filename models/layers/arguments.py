"""What a layer checks before anything runs. Messages state the rule, then the fact; where torch.nn raises for the same
mistake, the exception's type is torch.nn's.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import DRIVERS
from gatefuse.models.execution.context import autocast_on, transforming

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32)


def check_driver(driver: str) -> str:
    """Raises ValueError: neither auto nor a driver's name."""
    if driver != "auto" and driver not in DRIVERS:
        raise ValueError(f"driver must be one of auto, {', '.join(DRIVERS)}. Got {driver!r}.")
    return driver


# What torch.nn raises for arguments that it can't use; the first two by accident, from within.
REFUSALS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)


def in_words(error: Exception, check: Callable[[], Any]) -> Exception:
    """The error of a check of the arguments in the place of torch.nn's, which may say little; torch.nn's own where the
    check finds nothing or would raise what torch.nn doesn't mean."""
    try:
        check()
    except (RuntimeError, TypeError, ValueError) as found:
        if type(found) is type(error) or isinstance(error, REFUSALS[:2]):
            return found
    return error


def check_layer(
    input_size: int,
    hidden_size: int,
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    bidirectional: bool,
    dtype: torch.dtype | None,
) -> None:
    """Raises TypeError, ValueError or, for a dtype, RuntimeError: an argument of a layer's constructor is of no use."""
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
        if not isinstance(size, int):
            raise TypeError(f"{name} must be an int. Got {type(size).__name__}.")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero. Got {size}.")
    for name, flag in (("bias", bias), ("batch_first", batch_first), ("bidirectional", bidirectional)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool. Got {type(flag).__name__}.")
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
        raise ValueError(f"dropout must be a number from 0 to 1. Got {dropout!r}.")
    if dropout > 0 and num_layers == 1:
        warnings.warn(f"dropout acts between layers. Got dropout {dropout} for one layer.", stacklevel=3)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype. Got {dtype!r}.")
    if dtype is not None and not dtype.is_floating_point:
        raise RuntimeError(f"dtype must be a floating type. Got {dtype}.")


def check_input(x: Tensor, input_size: int, weight: Tensor, dims: tuple[int, int] = (2, 3)) -> None:
    """Check a layer's or a cell's input.

    Raises:
        TypeError: not a tensor.
        ValueError: neither of the two ranks, or, in a layer, not of the weights' dtype while autocast is off.
        RuntimeError: another size than input_size, on another device than the weights, or, in a cell, of another dtype.
    """
    cell = dims == (1, 2)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor. Got {type(x).__name__}.")
    if x.dim() not in dims:
        forms = "(I,), or (B, I)" if cell else "(T, I), or (T, B, I), with batch_first (B, T, I)"
        raise ValueError(f"x must have the shape {forms}. Got {tuple(x.shape)}.")
    _check_like(x, input_size, weight, RuntimeError if cell else ValueError)


def _check_like(x: Tensor, input_size: int, weight: Tensor, refuse: type[Exception]) -> None:
    """``refuse`` is raised for the dtype."""
    if x.dtype != weight.dtype and not (x.dtype.is_floating_point and autocast_on(x.device)):
        raise refuse(f"x must have the weights' dtype {weight.dtype}. Got {x.dtype}.")
    if x.shape[-1] != input_size:
        raise RuntimeError(f"x must have input_size {input_size} as its last dimension. Got {x.shape[-1]}.")
    if x.device != weight.device:
        raise RuntimeError(f"x must be on the weights' device {weight.device}. Got {x.device}.")


def check_packed(x: PackedSequence, input_size: int, weight: Tensor) -> None:
    """Check a layer's input that is packed.

    Raises:
        RuntimeError: the data has another form, size, dtype or device than (N, I) of the weights', or batch_sizes are
            not what torch makes.
    """
    data, sizes, *_ = x
    if data.dim() != 2:
        raise RuntimeError(f"a PackedSequence's data must have shape (N, I). Got {tuple(data.shape)}.")
    if sizes.dtype != torch.int64 or sizes.dim() != 1 or not len(sizes):
        got = f"{sizes.dtype} of shape {tuple(sizes.shape)}"
        raise RuntimeError(f"a PackedSequence's batch_sizes must be int64, one for each step. Got {got}.")
    _check_like(data, input_size, weight, RuntimeError)


def check_state(
    cell: Cell, state: Any, shape: tuple[int, ...], x: Tensor, what: str = "state", sizes: Sequence[int] = ()
) -> tuple[Tensor, ...]:
    """The states as a tuple, each of the shape that a call needs; ``what`` is the argument's name, ``sizes`` are the
    states' last dimensions where these differ.

    Raises:
        TypeError: not one tensor for a cell of one state, or not a tuple of tensors for another.
        RuntimeError: too few or too many states, another shape or device than x's, or, while autocast is off, dtype.
    """
    names = cell.states
    if len(names) == 1:
        if not isinstance(state, Tensor):
            raise TypeError(f"{what} must be one tensor, since {cell.name} has one state. Got {type(state).__name__}.")
        state = (state,)
    else:
        if not isinstance(state, (tuple, list)):
            raise TypeError(f"{what} must be a tuple ({', '.join(names)}). Got {type(state).__name__}.")
        if len(state) != len(names):
            raise RuntimeError(f"{what} must be a tuple ({', '.join(names)}). Got {len(state)} of {len(names)}.")
    dtype, device = x.dtype, x.device
    for k, (name, value) in enumerate(zip(names, state, strict=True)):
        if sizes:
            shape = *shape[:-1], sizes[k]
        if not isinstance(value, Tensor):
            raise TypeError(f"{what} {name} must be a tensor. Got {type(value).__name__}.")
        if value.shape != shape:
            raise RuntimeError(f"{what} {name} must have shape {shape}. Got {tuple(value.shape)}.")
        if value.dtype != dtype and not (value.dtype.is_floating_point and autocast_on(device)):
            raise RuntimeError(f"{what} {name} must have x's dtype {dtype}. Got {value.dtype}.")
        if value.device != device:
            raise RuntimeError(f"{what} {name} must be on x's device {device}. Got {value.device}.")
    return tuple(state)


def check_lengths(lengths: Tensor | Sequence[int], T: int, B: int, device: torch.device) -> Tensor:
    """The lengths as (B,) int64, on the device where they were. Values are checked on the CPU alone: reading them on
    another device would wait for it, and within vmap they can't be read.

    Raises:
        TypeError: not integers.
        ValueError: not one for each sample, or a value below 0 or above T.
        RuntimeError: on a device that is neither x's nor the CPU.
    """
    if not isinstance(lengths, Tensor):
        try:
            given = torch.as_tensor(lengths, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            given = None
        if given is None or given.dim() != 1 or (len(given) and given.dtype not in _INTEGERS):
            raise TypeError(f"lengths must be a tensor or a list of ints. Got {lengths!r}.")
        lengths = given.to(torch.int64)
    if lengths.dtype not in _INTEGERS:
        raise TypeError(f"lengths must have an integer dtype. Got {lengths.dtype}.")
    if lengths.shape != (B,):
        raise ValueError(f"lengths must have shape ({B},), one for each sample. Got {tuple(lengths.shape)}.")
    lengths = lengths.to(torch.int64)
    if lengths.device.type != "cpu":
        if lengths.device != device:
            raise RuntimeError(f"lengths must be on x's device {device} or on the CPU. Got {lengths.device}.")
    elif B and not torch.compiler.is_compiling() and not transforming():
        low, high = (int(n) for n in lengths.aminmax())
        if low < 0 or high > T:
            raise ValueError(f"lengths must be from 0 to T = {T}. Got {low if low < 0 else high}.")
    return lengths


def check_resets(resets: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Check a mask of resets.

    Raises:
        TypeError: not a tensor of bools.
        ValueError: not of x's shape without the last dimension.
        RuntimeError: on another device than x.
    """
    if not isinstance(resets, Tensor):
        raise TypeError(f"resets must be a tensor. Got {type(resets).__name__}.")
    if resets.dtype != torch.bool:
        raise TypeError(f"resets must have dtype torch.bool. Got {resets.dtype}.")
    if resets.shape != shape:
        raise ValueError(f"resets must have shape {shape}, as x has but for features. Got {tuple(resets.shape)}.")
    if resets.device != device:
        raise RuntimeError(f"resets must be on x's device {device}. Got {resets.device}.")


def check_projection(proj_size: int, hidden_size: int, heads: int) -> int:
    """Raises TypeError or ValueError: no number of features that the output can be projected to."""
    if not isinstance(proj_size, int) or isinstance(proj_size, bool):
        raise TypeError(f"proj_size must be an int. Got {type(proj_size).__name__}.")
    if not 0 <= proj_size < hidden_size:
        raise ValueError(f"proj_size must be at least 0 and below hidden_size {hidden_size}. Got {proj_size}.")
    if proj_size and heads > 1:
        raise ValueError(f"a layer with proj_size must have one head. Got proj_size {proj_size}, heads {heads}.")
    return proj_size


def check_heads(heads: int, hidden_size: int) -> int:
    """Raises TypeError or ValueError: so many heads can't share the units."""
    if not isinstance(heads, int) or isinstance(heads, bool):
        raise TypeError(f"heads must be an int. Got {type(heads).__name__}.")
    if heads < 1:
        raise ValueError(f"heads must be greater than zero. Got {heads}.")
    if hidden_size % heads:
        raise ValueError(f"hidden_size must be a multiple of heads. Got hidden_size {hidden_size}, heads {heads}.")
    return heads


def path_of(kind: type) -> str:
    """A class by its module and name: gatefuse.LSTM and torch.nn.LSTM are both an LSTM."""
    return f"{kind.__module__}.{kind.__qualname__}"

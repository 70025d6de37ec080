"""Inputs beside the gates, which a cell declares by name: in what shapes a layer takes them, and in which it runs them.

An input has x's shape without the features, one number a sample and step, or with H in their place, one a unit. Where
it is the same for all steps, samples or units, it may have 1 in the place of their number. The rank tells which of the
two it is, so that a shape has one meaning even where T is B.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers.packing import Packing
from gatefuse.models.execution.context import autocast_on


def check_names(cell: Cell, inputs: Any) -> tuple[Any, ...]:
    """The values, in the order of the cell's inputs.

    Raises:
        TypeError: they are not given by name.
        ValueError: one is missing, or the cell declares none of that name.
    """
    if inputs is None and not cell.inputs:
        return ()
    declared = f"the inputs of {cell.name} ({', '.join(cell.inputs) or 'none'})"
    if inputs is not None and not isinstance(inputs, Mapping):
        name = cell.inputs[0] if cell.inputs else "a"
        raise TypeError(f'inputs must be tensors by name, such as {{"{name}": {name}}}. Got {type(inputs).__name__}.')
    given = {} if inputs is None else inputs
    if unknown := [name for name in given if name not in cell.inputs]:
        raise ValueError(f"inputs must be {declared}. Got {unknown[0]}.")
    if missing := [name for name in cell.inputs if name not in given]:
        raise ValueError(f"inputs must be {declared}, all of them. Got none for {', '.join(missing)}.")
    return tuple([given[name] for name in cell.inputs])


def check_form(name: str, value: Any, lead: tuple[int, ...], H: int, x: Tensor) -> Tensor:
    """An input with units as its last dimension, H or 1.

    Args:
        lead: x's shape without the features.

    Raises:
        TypeError: it is no tensor.
        ValueError: of another shape.
        RuntimeError: of another dtype than x's, while autocast is off, or on another device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"input {name} must be a tensor. Got {type(value).__name__}.")
    shape, full = tuple(value.shape), (*lead, H)
    fits = len(shape) in (len(lead), len(full)) and all(
        size in (1, most) for size, most in zip(shape, full, strict=False)
    )
    if not fits:
        raise ValueError(
            f"input {name} must have shape {lead}, one number a sample, or {full}, one a unit, with 1 in the place of "
            f"what it is the same for. Got {shape}."
        )
    if value.dtype != x.dtype and not (value.dtype.is_floating_point and autocast_on(x.device)):
        raise RuntimeError(f"input {name} must have x's dtype {x.dtype}. Got {value.dtype}.")
    if value.device != x.device:
        raise RuntimeError(f"input {name} must be on x's device {x.device}. Got {value.device}.")
    return value.unsqueeze(-1) if len(shape) == len(lead) else value


def beside(cell: Cell, inputs: Any, x: Tensor, units: Callable[[str], int], batch_first: bool) -> tuple[Tensor, ...]:
    """Inputs as a Call has them, (1, T, B, H) with 1 in the place of any of these. Errors are those of the checks.

    Args:
        x: as the layer was given it, of two dimensions or three.
        units: of an input, by its name.
    """
    values, found = check_names(cell, inputs), []
    for name, value in zip(cell.inputs, values, strict=True):
        if isinstance(value, PackedSequence):
            raise TypeError(f"input {name} must be a tensor where x is one. Got a PackedSequence.")
        formed = check_form(name, value, tuple(x.shape[:-1]), units(name), x)
        if x.dim() == 2:
            formed = formed.unsqueeze(1)
        elif batch_first:
            formed = formed.transpose(0, 1)
        found.append(formed.unsqueeze(0))
    return tuple(found)


def packed_beside(
    cell: Cell, inputs: Any, x: PackedSequence, packing: Packing, units: Callable[[str], int], batch_first: bool
) -> tuple[Tensor, ...]:
    """As beside, padded and with samples in the order of packing, where x is packed: from what is packed as it is, or
    padded to the longest sample's steps.

    Raises:
        ValueError: an input is packed otherwise; and what the checks above raise.
    """
    values, found = check_names(cell, inputs), []
    T, B = packing.within.shape
    for name, value in zip(cell.inputs, values, strict=True):
        if isinstance(value, PackedSequence):
            if not _alike(value, x):
                raise ValueError(f"input {name} must be packed as x is. Got other lengths or another order of samples.")
            rows = x.data.shape[0]
            formed = check_form(name, value.data, (rows,), units(name), x.data).expand(rows, -1)
            found.append(packing.unpack(formed).unsqueeze(0))
            continue
        formed = check_form(name, value, (B, T) if batch_first else (T, B), units(name), x.data)
        formed = formed.transpose(0, 1) if batch_first else formed
        if x.sorted_indices is not None and formed.shape[1] > 1:
            formed = formed.index_select(1, x.sorted_indices)
        found.append(formed.unsqueeze(0))
    return tuple(found)


def _alike(a: PackedSequence, b: PackedSequence) -> bool:
    if not torch.equal(a.batch_sizes, b.batch_sizes):
        return False
    if a.sorted_indices is None or b.sorted_indices is None:
        return a.sorted_indices is b.sorted_indices
    return torch.equal(a.sorted_indices, b.sorted_indices)

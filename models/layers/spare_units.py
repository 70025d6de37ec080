"""Spare units: a layer's parameters with as many units in all places as its largest size has.

Annotations aren't postponed here, since TorchScript reads one of these functions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.spare_units import shared_columns, wide_rows
from gatefuse.models.layers.layout import for_all_gates
from gatefuse.models.layers.units import Units


class Source(NamedTuple):
    """The parameters of a direction that a weight is made of.

    Attributes:
        parameters: their places among the direction's.
        rows: of each parameter, how many each of its gates has; it has no gates where that is [0].
        places: of each gate of the weight, its place among these gates; -1 where it has zeros.
        shared: whether columns are to be as many as there are units, too.
    """

    parameters: list[int]
    rows: list[list[int]]
    places: list[int]
    shared: bool


def sources(cell: Cell, bias: bool, units: Units) -> list[Source]:
    """What each weight of a direction is made of, in the order in which loops take them."""

    def rows(gates: list[str] | tuple[str, ...]) -> list[int]:
        return [units.of(gate) for gate in gates] or [0]

    def places(gates: tuple[str, ...], own: list[str] | tuple[str, ...]) -> list[int]:
        return [own.index(gate) if gate in own else -1 for gate in gates] or [0]

    parts = [gates or [""] for gates in units.recurrent.values()]  # "" for the rows that a part without gates has not
    n = 1 + len(parts)
    found = [Source([0], [rows(cell.input_gates)], places(cell.input_gates, cell.input_gates), False)]
    by_part = [rows(gates) if gates != [""] else [0] for gates in parts]
    together = [gate for gates in parts for gate in gates if gate]
    found.append(Source(list(range(1, n)), by_part, places(cell.recurrent_gates, together), True))
    if bias:
        sides = (cell.input_gates, cell.input_biases), (cell.recurrent_gates, cell.recurrent_biases)
        found += [Source([n + k], [rows(own)], places(gates, own), False) for k, (gates, own) in enumerate(sides)]
        n += 2
    numbers = [1 if name in cell.scalars else units.of(name) for name in cell.parameters]
    return [*found, *[Source([n + k], [[number]], [0], False) for k, number in enumerate(numbers)]]


def full_weight(parameters: list[Tensor], rows: list[list[int]], places: list[int], shared: bool, W: int) -> Tensor:
    """The weight that parameters stand for; arguments as a Source's."""
    found: list[Tensor] = []
    for k in range(len(parameters)):
        parameter = shared_columns(parameters[k], W) if shared else parameters[k]
        found.append(wide_rows(parameter, rows[k], W))
    return for_all_gates(torch.cat(found), places, W)

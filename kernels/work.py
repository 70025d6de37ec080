"""How much a layer multiplies: what counters of operations are told, and what a call is measured against."""

from __future__ import annotations

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.operators import TranslationError


def input_products(cell: Cell, size: int, H: int) -> int:
    """Multiplications of one direction's input product, a step and sample, for ``size`` features."""
    return size * len(cell.input_gates) * H


def recurrent_products(cell: Cell, H: int) -> int:
    """Multiplications of one direction's recurrent products, a step and sample.

    Equations that can't be translated are taken to have one for each gate.
    """
    try:
        gates = cell.program.weighed
    except TranslationError:
        gates = len(cell.recurrent_gates)
    return H * gates * H

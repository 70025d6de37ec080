"""What equations ask for while they are traced and no trace can hold: R's products, means of units and the largest.

Each is handed out as an input, and what it goes over is noted. The same of the same vector is the same input.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gatefuse.kernels.equations.expression import Expr, input_names
from gatefuse.kernels.equations.gates import kind_of
from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.equations.products import Ask
from gatefuse.kernels.equations.tracing.examples import SHAPE, Shape, example, shape_of, shapes
from gatefuse.kernels.equations.tracing.record import Record

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell


class Asks:
    """Hands out inputs, and notes what they stand for.

    Args:
        inputs: all inputs by name, of which r_<gate> is a gate's first product; others are added when they are asked
            for.

    Attributes:
        asked: in the order of the equations.
        vectors: what was multiplied or reduced.
    """

    def __init__(self, cell: Cell, record: Record, inputs: dict[str, Tensor], dtype: torch.dtype):
        self.asked: list[Ask] = []
        self.vectors: list[Tensor] = []
        self._cell, self._record, self._inputs, self._dtype = cell, record, inputs, dtype
        self._known: dict[tuple[int, str, int], Tensor] = {}

    def products(self, gates: Iterable[int], vector: Tensor) -> list[Tensor]:
        """R of those gates and of a vector.

        Raises:
            TranslationError: the vector is none of a state's shape.
        """
        check_shape(self._cell, "what R multiplies", vector, *shapes(self._cell))
        expression = self._expression(vector)
        if self._cell.size_of and not input_names([expression]):
            raise TranslationError(
                f"what R multiplies of {self._cell.name}, which has sizes, must be made of its states or gates. "
                f"Got a number"
            )
        if self.same_for_all(expression):
            raise TranslationError(
                f"what R multiplies of {self._cell.name} must differ by unit. Got one number for all units of a sample"
            )
        return [self._handed(gate, "", vector) for gate in gates]

    def reduction(self, kind: str, vector: Tensor) -> Tensor:
        """The mean of a vector's units, or the largest of them, "amax", which all of them have.

        Raises:
            TranslationError: the vector is none of a state's shape and dtype, or has one number for all units.
        """
        with torch._C.DisableTorchFunction():
            shape, dtype = tuple(vector.shape), vector.dtype
        if shape not in shapes(self._cell) or dtype != self._dtype:
            raise TranslationError(f"must reduce values of a state's shape and dtype. Got {shape} of {dtype}")
        expression = self._expression(vector)
        if self.same_for_all(expression) or not input_names([expression]):
            raise TranslationError("must reduce values that differ by unit. Got one number for all units of a sample")
        return self._handed(-1, kind, vector)

    def same_for_all(self, expression: Expr) -> bool:
        """Whether a value is made of means alone, so that it is (B, 1) where the equations run."""
        names = input_names([expression])
        return bool(names) and names <= {ask.name for ask in self.asked if ask.reduces}

    def _expression(self, vector: Tensor) -> Expr:
        with torch._C.DisableTorchFunction():  # the equations ask nothing here
            return self._record.of(vector)

    def _handed(self, gate: int, reduces: str, vector: Tensor) -> Tensor:
        expression = self._expression(vector)
        key = gate, reduces, id(expression)
        with torch._C.DisableTorchFunction():
            shape = tuple(vector.shape)
        if key not in self._known:
            name = self._name(gate, reduces)
            if name not in self._inputs:
                of = shape if reduces else shape_of(self._cell, self._cell.recurrent_gates[gate])
                self._inputs[name] = self._made(name, of)
            self._known[key] = self._inputs[name]
            size = shapes(self._cell)[shape]
            self.asked.append(Ask(name, self._place(vector, expression), gate, reduces, size))
        known = self._known[key]
        return known if torch.is_grad_enabled() else known.detach()

    def _place(self, vector: Tensor, expression: Expr) -> int:
        """The vector's place among all, where equal ones are one."""
        for k, other in enumerate(self.vectors):
            if self._expression(other) is expression:
                return k
        self.vectors.append(vector)
        return len(self.vectors) - 1

    def _name(self, gate: int, reduces: str) -> str:
        """That of a new input, which nothing else has."""
        cell, asked = self._cell, {ask.name for ask in self.asked}
        first = f"r_{cell.recurrent_gates[gate]}" if gate >= 0 else ""
        if first and first not in asked:
            return first
        taken = {*self._inputs, *(f"a_{each}" for each in cell.gates), *(f"d_{state}" for state in cell.states)}
        name = f"{first or reduces}_{1 + sum(ask.gate == gate for ask in self.asked)}"
        while name in taken or f"d_{name}" in taken:
            name += "_"
        return name

    def _made(self, name: str, shape: Shape) -> Tensor:
        """A new input, of which neither mode is told."""
        self._record.paused = True
        try:
            with torch._C.DisableTorchFunction():
                return self._record.input(name, example(self._dtype, shape).requires_grad_())
        finally:
            self._record.paused = False


def check_shape(cell: Cell, what: str, value: Any, *fitting: Shape, where: str = "") -> None:
    """Raises TranslationError: a value is no tensor of a state's shape, of which those fit."""
    if not isinstance(value, Tensor):
        raise TranslationError(f"{what} of {cell.name} must be a tensor. Got {kind_of(value)}{where}")
    with torch._C.DisableTorchFunction():
        shape = tuple(value.shape)
    known = shapes(cell)
    if shape not in fitting and shape in known:
        raise TranslationError(f"{what} of {cell.name} must have size {known[fitting[0]]}. Got {known[shape]}{where}")
    if shape not in fitting:
        raise TranslationError(
            f"{what} of {cell.name} must have a state's shape, since equations are pointwise. "
            f"Got {shape} for states of {SHAPE}{where}"
        )

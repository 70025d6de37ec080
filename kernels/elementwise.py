"""A cell whose R multiplies each unit by itself alone, as one head a unit does: by numbers, which are parameters then.

R.f(v) is w_f v + b_f, of which no product is left: a sequence takes as long as that of a cell without R.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.recurrence import OfGate, Uncalled, check_gate
from gatefuse.kernels.runtime.dynamo import constant


@constant
def elementwise(serial: str, bias: bool) -> Cell:
    """The cell of the same equations as that of a serial, with numbers in the place of R; made once, and kept with it.

    Its parameters are the cell's, then a weight (H,) for each of the recurrent gates, and with bias a bias (H,) each.
    """
    cell = Cell.by_serial(serial)
    made = cell.made.get((elementwise, bias))
    if made is None:
        made = cell.made[elementwise, bias] = _made(cell, bias)
    return made


def _made(cell: Cell, bias: bool) -> Cell:
    taken = {*cell.gates, *cell.states, *cell.parameters, *cell.constants, *cell.inputs}
    prefix = "R"
    while any(name.startswith(prefix) for name in taken):
        prefix += "R"
    weights = tuple([f"{prefix}_{gate}" for gate in cell.recurrent_gates])
    biases = tuple([f"{prefix}{prefix}_{gate}" for gate in cell.recurrent_gates]) if bias else ()
    declaration = cell.declaration._replace(
        declared=tuple([f"{gate}:x" for gate in cell.input_gates]),
        gates=cell.input_gates,
        recurrent_gates=(),
        parameters=(*cell.parameters, *weights, *biases),
        input_biases=cell.input_gates,
        recurrent_biases=(),
        scalars=(),
    )
    found = Cell(cell.equations, declaration)
    found.name = f"{cell.name}_elementwise"
    numbers = partial(_given, cell.recurrent_gates, cell.gates, cell.parameters, weights, biases)
    found.given = numbers if cell.given is None else partial(_then, numbers, cell.given)
    return found


def _given(
    gates: Sequence[str],
    whole: Sequence[str],
    own: Sequence[str],
    weights: Sequence[str],
    biases: Sequence[str],
    x: Gates,
    _: Any,
    parameters: Mapping[str, Tensor],
) -> tuple[Gates, Any, dict[str, Tensor]]:
    """What equations are given: x of all gates of the cell, R of numbers, and the cell's own parameters."""
    own_x = object.__new__(type(x))
    vars(own_x).update(vars(x), _whole=whole)
    R = _Numbers(gates, whole, [parameters[name] for name in weights], [parameters[name] for name in biases])
    return own_x, R, {name: parameters[name] for name in own}


def _then(first: Callable[..., Any], second: Callable[..., Any], *given: Any) -> Any:
    """What equations are given by the second of what they are given by the first."""
    return second(*first(*given))


class _Numbers(Uncalled):
    """R of numbers, by gate."""

    def __init__(self, names: Sequence[str], whole: Sequence[str], weights: list[Tensor], biases: list[Tensor]):
        self._names, self._whole, self._weights, self._biases = names, whole, weights, biases

    def __call__(self, vector: Tensor) -> Gates:
        return Gates(self._names, parts=[self._product(k, vector) for k in range(len(self._names))], whole=self._whole)

    def __getattr__(self, name: str) -> OfGate:
        check_gate(name, self._names, self._whole)
        return OfGate(partial(self._product, self._names.index(name)))

    def _product(self, gate: int, vector: Tensor) -> Tensor:
        weight = self._weights[gate]
        with torch._C.DisableTorchFunction():  # a trace would take it for a question of the equations'
            other = vector.dtype != weight.dtype
        product = (vector.to(weight.dtype) if other else vector) * weight
        return product + self._biases[gate] if self._biases else product

"""A cell that is given its input's product in the place of an input to multiply: what a layer of somebody else's makes
of the input, normalized or convolved before the steps, stays that layer's, and the steps alone are run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.inputs import GatesAndInputs
from gatefuse.kernels.runtime.dynamo import constant

_NAME = "product_{}"


@constant
def given_product(serial: str) -> Cell:
    """The cell of the same equations as that of a serial, without input weights; made once, and kept with it.

    Its inputs beside the gates are the product of each gate, with its bias, in the order of the gates, and behind them
    the cell's own. Of the input itself it reads nothing, and its input weights have no rows.

    Raises:
        ValueError: a gate of the cell has one side alone.
    """
    cell = Cell.by_serial(serial)
    made = cell.made.get(given_product)
    if made is None:
        made = cell.made[given_product] = _made(cell)
    return made


def _made(cell: Cell) -> Cell:
    if not cell.gates == cell.input_gates == cell.recurrent_gates:
        one_sided = ", ".join([gate for gate in cell.declared if ":" in gate])
        raise ValueError(f"a cell that is given its input's product must have gates of two sides. Got {one_sided}.")
    names = tuple([_NAME.format(gate) for gate in cell.gates])
    declaration = cell.declaration._replace(
        declared=tuple([f"{gate}:R" for gate in cell.gates]),
        input_gates=(),
        input_biases=(),
        inputs=(*names, *cell.inputs),
    )
    found = Cell(cell.equations, declaration)
    found.name = f"{cell.name}_of_given_product"
    found.given = partial(_given, cell.gates, names)
    return found


def _given(
    gates: Sequence[str], names: Sequence[str], x: Gates, R: Any, parameters: Mapping[str, Tensor]
) -> tuple[Gates, Any, Mapping[str, Tensor]]:
    """What equations are given: x, whose gates are the products, with the cell's own inputs."""
    assert isinstance(x, GatesAndInputs)
    own = {name: value for name, value in x._beside.items() if name not in names}
    return GatesAndInputs(own, gates, parts=[x._beside[name] for name in names]), R, parameters

"""A layer's parameters: their shapes, what they begin with, and the weights that they stand for, as loops take them.

Weights are for each gate and each unit. A gate without bias has no rows in ``bias_ih`` or ``bias_hh``, and a number for
all units is a single one. Annotations aren't postponed here, since TorchScript reads some of these functions.
"""

from collections.abc import Sequence
from itertools import cycle

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.parameters import FirstValue
from gatefuse.kernels.equations.sizes import HIDDEN
from gatefuse.models.layers.units import Units


def parameter_shapes(
    cell: Cell, features: int, H: int, bias: bool, heads: int, proj_size: int, units: Units | None = None
) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a direction of a layer, by name, in their order; units None where all are H."""

    def rows(gates: Sequence[str]) -> int:
        return len(gates) * H if units is None else units.rows(gates)

    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows(cell.input_gates), features)}
    if units is None:
        shapes["weight_hh"] = (rows(cell.recurrent_gates), proj_size or H // heads)
    else:
        for size, gates in units.recurrent.items():
            name = "weight_hh" if size == HIDDEN else f"weight_hh_{size}"
            shapes[name] = (rows(gates), units.numbers[size])
    if bias:
        shapes["bias_ih"] = (rows(cell.input_biases),)
        shapes["bias_hh"] = (rows(cell.recurrent_biases),)
    if proj_size:
        shapes["weight_hr"] = (proj_size, H)
    if taken := [name for name in cell.parameters if name in shapes]:
        raise ValueError(f"a cell's parameter must not be named as the layer's own. Got {taken[0]}.")
    each = {name: H if units is None else units.of(name) for name in cell.parameters}
    return shapes | {name: (1,) if name in cell.scalars else (number,) for name, number in each.items()}


@torch.no_grad()
def fill(name: str, parameter: Tensor, value: FirstValue) -> None:
    """Give a parameter its first values.

    Raises:
        ValueError: the function leaves values as they were, which would be whatever memory held.
    """
    if not callable(value):
        parameter.fill_(value)
        return
    parameter.fill_(torch.nan)
    value(parameter)
    if type(parameter.data) is Tensor and not parameter.is_meta and parameter.isnan().any():
        raise ValueError(
            f"parameter_init of {name} must fill the tensor that it is called with, as torch.nn.init.ones_ does. "
            f"Got {getattr(value, '__name__', type(value).__name__)}, after which it holds values that are no numbers."
        )


def forms(cell: Cell, bias: bool, projected: bool) -> list[list[int] | None]:
    """What each parameter of a direction of a layer stands for: None for one that is the weight itself, no places for a
    number for all units, and for a bias its place by gate, -1 where a gate has none."""
    sides = (cell.input_gates, cell.input_biases), (cell.recurrent_gates, cell.recurrent_biases)
    found: list[list[int] | None] = [None, None]
    for gates, own in sides if bias else ():
        places = [own.index(gate) if gate in own else -1 for gate in gates]
        found.append(places if -1 in places else None)
    found += [None] if projected else []
    return [*found, *[[] if name in cell.scalars else None for name in cell.parameters]]


def full_weights(cell: Cell, parameters: Sequence[Tensor], H: int, bias: bool, projected: bool = False) -> list[Tensor]:
    """The weights that a layer's parameters stand for, of each layer and direction in turn, in the same order."""
    found = []
    for parameter, places in zip(parameters, cycle(forms(cell, bias, projected)), strict=False):
        if places is None:
            found.append(parameter)
        else:
            found.append(for_all_gates(parameter, places, H) if places else for_all_units(parameter, H))
    return found


def for_all_gates(bias: Tensor, places: list[int], H: int) -> Tensor:
    """A bias for each gate, (G * H,): the rows at its place among those of the parameter, or zeros."""
    none = torch.zeros(H, dtype=bias.dtype, device=bias.device)
    rows = [none if place < 0 else bias[place * H : (place + 1) * H] for place in places]
    rows.append(bias[:0])  # so that a bias of no rows has a gradient, of none
    return torch.cat(rows)


def for_all_units(number: Tensor, H: int) -> Tensor:
    """A number for each unit, (H,), in memory of its own, as compiled code reads it."""
    return number.repeat(H)


def block_diagonal(weight: Tensor, heads: int) -> Tensor:
    """The rows (G * H, H) that those of so many heads, (G * H, H / heads), stand for."""
    h = weight.size(1)
    H = heads * h
    rows = weight.reshape(-1, heads, h, h).transpose(1, 2)  # gate, unit, head, unit before
    # h numbers and H zeros a head, cut anew every H: each head's numbers begin h further to the right than the last's
    wide = torch.nn.functional.pad(rows, [0, H]).flatten(2)[:, :, : heads * H]
    return wide.reshape(-1, h, heads, H).transpose(1, 2).reshape(-1, H)

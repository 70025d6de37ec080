"""Units: how many of them each of a cell's values has in a layer, where these aren't all hidden_size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.facts import reduced_sizes, untranslatable, vector_sizes
from gatefuse.kernels.equations.sizes import HIDDEN


class Units(NamedTuple):
    """The units of a layer whose cell declares sizes.

    Attributes:
        numbers: of units, by size, hidden_size first.
        size_of: the size of each gate, state, parameter and input that has another than hidden_size.
        vectors: by recurrent gate, the size of what R multiplies for it.
    """

    numbers: dict[str, int]
    size_of: dict[str, str]
    vectors: dict[str, str]

    def of(self, name: str) -> int:
        """Units of a gate, state, parameter or input."""
        return self.numbers[self.size_of.get(name, HIDDEN)]

    def rows(self, gates: Iterable[str]) -> int:
        """Units of gates, all together."""
        return sum([self.of(gate) for gate in gates])

    @property
    def declared(self) -> dict[str, int]:
        """Units by size, as the layer was given them."""
        return {size: number for size, number in self.numbers.items() if size != HIDDEN}

    @property
    def most(self) -> int:
        """With which all values of the equations are run."""
        return max(self.numbers.values())

    @property
    def recurrent(self) -> dict[str, list[str]]:
        """Gates by the size of what R multiplies for them, in the order of the layer's weights: hidden_size first."""
        found: dict[str, list[str]] = {size: [] for size in self.numbers}
        for gate, size in self.vectors.items():
            found[size].append(gate)
        return {size: gates for size, gates in found.items() if gates or size == HIDDEN}


def units_of(cell: Cell, hidden_size: int, sizes: Any, heads: int, proj_size: int) -> Units | None:
    """The units of a layer of that cell; None where all are hidden_size.

    Raises:
        TypeError: sizes are not given by name, or one is no int.
        ValueError: one is missing, not the cell's or below 1; the layer has heads or a projection; or the equations
            reduce over values of fewer units than others, or can't be made into code, so that it isn't known of what
            size the values within them are.
    """
    if sizes is not None and not isinstance(sizes, Mapping):
        raise TypeError(f'sizes must be numbers by name, such as {{"slow": 40}}. Got {sizes!r}.')
    given, declared = dict(sizes or {}), [size for size, _ in cell.declaration.sizes]
    rule = f"sizes must be those of {cell.name} ({', '.join(declared) or 'none'})"
    if unknown := [size for size in given if size not in declared]:
        raise ValueError(f"{rule}. Got {unknown[0]}.")
    if missing := [size for size in declared if size not in given]:
        raise ValueError(f"{rule}, all of them. Got none for {', '.join(missing)}.")
    if not declared:
        return None
    for size, number in given.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"size {size} must be an int. Got {type(number).__name__}.")
        if number <= 0:
            raise ValueError(f"size {size} must be greater than zero. Got {number}.")
    for name, value, alone in (("heads", heads, 1), ("proj_size", proj_size, 0)):
        if value != alone:
            raise ValueError(f"a layer of a cell with sizes must have {name} {alone}. Got {value} for {cell.name}.")
    if why := untranslatable(cell.serial):
        raise ValueError(
            f"a cell with sizes must be one that code can be made of, which shows the size of each of its values. "
            f"Got {cell.name}: {why}."
        )
    vectors = dict(zip(cell.recurrent_gates, vector_sizes(cell.serial), strict=True))
    found = Units(
        {HIDDEN: hidden_size, **{size: given[size] for size in declared}}, dict(cell.trained.size_of), vectors
    )
    for size in reduced_sizes(cell.serial):
        if found.numbers[size] < found.most:
            listed = ", ".join([f"{name} {number}" for name, number in found.numbers.items()])
            raise ValueError(
                f"means and the largest of units must be of the largest size of a layer. "
                f"Got one of {size} in {cell.name}, for {listed}."
            )
    return found

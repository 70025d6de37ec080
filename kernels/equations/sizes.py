"""Sizes of a cell's values by name: which of its states, gates, parameters and inputs have another number of units than
hidden_size. Only a layer gives a size its number.

Where equations run, all values have as many units as the largest size; that they mean something at others is seen where
they are traced, by examples of which each size has a number of units of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# Of each size its name, and the names of what has it.
Sizes: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]

HIDDEN = "hidden_size"  # the size of what is declared to have none


def read_sizes(cell: str, names: Sequence[str], sizes: Any) -> Sizes:
    """The sizes that a cell declares.

    Args:
        names: of its gates, states, parameters and inputs. A name that a gate and a state have is both.

    Raises:
        TypeError: they are not given by name, or what has one isn't named in one text.
        ValueError: a size is no name, or the layer's own; it is nothing's, or something's that is none of these names
            or has one already.
    """
    if sizes is None:
        return ()
    if not isinstance(sizes, Mapping) or not all(isinstance(text, str) for text in sizes.values()):
        raise TypeError(f'sizes must be names by size, each in one text, such as {{"slow": "s b"}}. Got {sizes!r}.')
    found: dict[str, str] = {}
    for size, text in sizes.items():
        if not isinstance(size, str) or not size.isidentifier() or size.startswith("_"):
            raise ValueError(f"a size of {cell} must be a name without a leading underscore. Got {size!r}.")
        if size in (HIDDEN, "input_size", "proj_size"):
            raise ValueError(f"a size of {cell} must not be named as a layer's own. Got {size}.")
        if not text.split():
            raise ValueError(f"a size of {cell} must be that of a state, gate, parameter or input. Got {size} alone.")
        for name in text.split():
            if name not in names:
                listed = ", ".join(dict.fromkeys(names))
                raise ValueError(
                    f"sizes must name states, gates, parameters and inputs of {cell} ({listed}). Got {name}."
                )
            if name in found:
                raise ValueError(f"sizes must name each value of {cell} once. Got {name} twice.")
            found[name] = size
    return tuple([(size, tuple(text.split())) for size, text in sizes.items()])


def as_mapping(sizes: Sizes) -> dict[str, str]:
    """The size of each name that has one."""
    return {name: size for size, names in sizes for name in names}


def with_others(sizes: Sizes, others: Mapping[str, str]) -> Sizes:
    """Sizes with other names, of which each has a size too."""
    return tuple([(size, (*names, *[name for name, its in others.items() if its == size])) for size, names in sizes])

"""Calls of compiled code that are prepared once for their sizes: all arguments but addresses, which each call brings.

An address is a block, known by its number, and a distance from its begin. Of the blocks, number 0 is memory that the
calls share while they run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.llvm.compiled import Compiled
from gatefuse.kernels.loops.directions import plain
from gatefuse.kernels.loops.llvm.division import steps_ahead
from gatefuse.kernels.runtime.scratch import Scratch

_LINE = 64  # bytes


class Place(NamedTuple):
    """An address: of a block, by its number, and bytes on."""

    block: int
    offset: int

    def on(self, bytes: int) -> Place:
        """So many bytes on."""
        return Place(self.block, self.offset + bytes)


class Run(NamedTuple):
    """A call of compiled code: all its arguments, and those among them that are addresses."""

    compiled: Compiled
    arguments: ctypes.Array
    places: tuple[tuple[int, Place], ...]


class Memory:
    """A block of memory as it is given out, in numbers of so many bytes."""

    def __init__(self, size: int, block: int = 0):
        self.bytes, self.size, self._block = 0, size, block

    def take(self, numbers: int) -> Place:
        """Room for so many numbers, at the begin of a line of the cache."""
        place = Place(self._block, self.bytes)
        self.bytes += -(-numbers * self.size // _LINE) * _LINE
        return place


def input_arguments(
    cell: Cell, compiled: Compiled, I: int, H: int, T: int, B: int, tiles: int, size: int
) -> dict[str, Any]:
    """Arguments of the input's product; of its memory the numbers that it takes."""
    rows, row = -(-B // tiles), compiled.row(len(cell.input_gates) * H)
    steps = steps_ahead(T, rows)
    return {
        "I": I, "input_pack": row * (I + 1), "input_steps": steps, "ahead": tiles * steps * rows * row,
        "ahead_row": row * size, "ahead_tile": steps * rows * row * size,
    }  # fmt: skip


def prepared(compiled: Compiled, values: dict[str, Any]) -> Run:
    """A call with these values, of which places are addresses, and 0 for what isn't given."""
    names = compiled.fields.names
    places = tuple((k, place) for k, name in enumerate(names) if isinstance(place := values.get(name), Place))
    numbers = {name: 0 if isinstance(value := values.get(name, 0), Place) else value for name in names}
    return Run(compiled, compiled.fields.filled(numbers), places)


def readable(x: Tensor) -> Tensor:
    """The input as compiled code reads it: a sample's features side by side, and not marked as negated."""
    return plain(x) if x.is_neg() or (x.stride(2) != 1 and x.shape[2] != 1) else x


def run_all(runs: Sequence[Run], bytes: int, blocks: Iterable[Tensor | None], like: Tensor) -> None:
    """Run them one after the other, on the blocks from number 1 on and so many bytes of memory, in like's dtype."""
    with Scratch(bytes // like.element_size(), like.dtype) as memory:
        addresses = [memory.data_ptr(), *[0 if block is None else block.data_ptr() for block in blocks]]
        for compiled, arguments, places in runs:
            filled = type(arguments).from_buffer_copy(arguments)
            for k, (block, offset) in places:
                at = addresses[block]
                filled[k] = at + offset if at else 0
            compiled.run(filled)

"""How a sequence is cut into programs, and what shared memory that takes; nothing here brings Triton."""

from __future__ import annotations

from typing import NamedTuple

from gatefuse.kernels.program import Program


class Tiles(NamedTuple):
    """HP: units, padded; BB: samples of a program; warps of a program."""

    HP: int
    BB: int
    warps: int


def block_tiles(H: int) -> Tiles:
    """The block driver's tiles for a hidden size; the matrix unit takes 16 at least on every side."""
    HP = max(16, 1 << (H - 1).bit_length())
    return Tiles(HP, 16, 8 if HP >= 128 else 4)


def block_shared_bytes(program: Program, H: int, itemsize: int) -> int:
    """Shared memory that the block driver's kernels take at the least, in bytes: the weights and a tile in float32."""
    HP, BB, _ = block_tiles(H)
    padded = sum(1 << (len(p.gates) - 1).bit_length() for p in program.products)
    return padded * HP * HP * itemsize + HP * BB * 4

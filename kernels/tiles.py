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


class GridTiles(NamedTuple):
    """BU: units of a program; KC: columns of a chunk of its weights; BB: samples; warps of a program."""

    BU: int
    KC: int
    BB: int
    warps: int


def grid_tiles(H: int, B: int, backward: bool = False) -> GridTiles:
    """The grid driver's tiles. Chunks are powers of two that leave at most an eighth of a row empty.

    Backward, chunks of 512 were seen to spill when compiled for sm_90, and so were 4 warps above H 512. What these
    tiles take is in reports/resources.
    """
    padded = max(16, 1 << (H - 1).bit_length())
    largest = min(padded, 256 if backward else 512)
    chunks = [size for size in (512, 256, 128, 64, 32, 16) if size <= largest and -(-H // size) * size <= 1.125 * H]
    warps = 8 if backward and H > 512 else 4
    return GridTiles(16, chunks[0] if chunks else 16, 16 if B <= 16 else 32, warps)


def grid_shared_bytes(program: Program, H: int, itemsize: int, cut: GridTiles) -> int:
    """Shared memory that the grid driver's kernels take at the least, in bytes: the weights and a tile in float32."""
    columns = -(-H // cut.KC) * cut.KC
    padded = sum(1 << (len(p.gates) - 1).bit_length() for p in program.products)
    return padded * cut.BU * columns * itemsize + cut.BU * cut.BB * 4

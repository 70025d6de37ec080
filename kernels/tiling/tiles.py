"""How a sequence is cut into programs, and what shared memory that takes; nothing here brings Triton."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from gatefuse.kernels.equations.program import Program
from gatefuse.kernels.runtime.device import Limits
from gatefuse.kernels.tiling import overrides


class Tiles(NamedTuple):
    """Tiles of the block driver: HP units, padded, and BB samples of a program; warps of a program."""

    HP: int
    BB: int
    warps: int


_VALUES = 20


def many_values(program: Program) -> bool:
    """Whether a step has so many slots and parameters that registers are short: compiled for sm_90, a cell of 28 took
    1136 bytes of stack backward at H 64, of which eight warps in place of four left 64, and addresses that are
    found where they are used 24."""
    return len(program.slots) + len(program.cell.parameters) >= _VALUES


def block_tiles(H: int, way: str = "forward", program: Program | None = None) -> Tiles:
    """The block driver's tiles for a hidden size. The matrix unit takes 16 at least on every side, or pads what has
    fewer; a tile of 16 samples of 128 units and many values takes more registers than a multiprocessor has."""
    HP = _power(H)
    many = program is not None and many_values(program)
    warps = 8 if HP >= 128 or (many and HP >= 64) else 4
    return Tiles(HP, 8 if many and HP >= 128 else 16, warps)._replace(**overrides.tiles("block", way))


def block_shared_bytes(program: Program, H: int, itemsize: int) -> int:
    """Shared memory that the block driver's kernels take at the least, in bytes: the weights and a tile in float32."""
    HP, BB, _ = block_tiles(H, program=program)
    return _padded(program) * HP * HP * itemsize + HP * BB * 4


class GridTiles(NamedTuple):
    """Tiles of the grid driver: BU units and BB samples of a program, KC columns of a chunk of its weights; its warps.

    units: programs that share a tile of the batch; shared: bytes that one of them is expected to take, the weights and
    one exchanged vector. What it does take is in reports/resources.
    """

    BU: int
    KC: int
    BB: int
    warps: int
    units: int
    shared: int


class GridBackwardTiles(NamedTuple):
    """As GridTiles; a program multiplies CHUNKS * KC units' gradients of each gate, one of SLICES such parts, by the
    weights of BN units."""

    BU: int
    BN: int
    SLICES: int
    CHUNKS: int
    KC: int
    BB: int
    warps: int
    units: int
    shared: int


def grid_tiles(program: Program, H: int, B: int, itemsize: int, held: Limits, directions: int = 1) -> GridTiles:
    """The grid driver's tiles forward, or where nothing fits those that come nearest.

    16 units of 4 gates fill a Hopper matrix instruction's 64 rows; with fewer, more programs share the weights. A tile
    of 8 samples leaves room for the weights of 1536 units on 96 programs.
    """
    held = held._replace(programs=held.programs // directions)

    def cut(BU: int, BB: int, KC: int = _chunk(H, 512), warps: int = 0) -> GridTiles:
        shared = (_padded(program) * BU + BB) * -(-H // KC) * KC * itemsize
        return GridTiles(BU, KC, BB, warps or (8 if BB == 64 else 4), -(-H // BU), shared)

    found = _choose([*([cut(BU, BB) for BB in _batches(B)] for BU in (16, 8)), [cut(16, 8)]], B, held)
    tried = overrides.tiles("grid", "forward")
    return cut(**{"BU": found.BU, "BB": found.BB, **tried}) if tried else found


# From here on a step backward is expected to gain more by sharing a product's sum than a second barrier costs.
_SPLIT = 512
MOST_SLICES = 8  # of a sum
# Chunks that a program asks for before it multiplies the first; of more than 16 samples, more were seen to spill when
# compiled for sm_90.
_ASKED = 8


def grid_backward_tiles(
    program: Program, H: int, B: int, itemsize: int, held: Limits, directions: int = 1
) -> GridBackwardTiles:
    """The grid driver's tiles backward; see grid_tiles. At small H each program has all of a product's sum, from
    H 512 on as small a part of it as there are programs for."""

    def cut(BN: int, SLICES: int, BB: int, KC: int = 0, warps: int = 0, BU: int = 0) -> GridBackwardTiles:
        KC = KC or (max(64, _chunk(-(-H // SLICES), 128)) if SLICES > 1 else _chunk(H, 256))
        chunks = -(-H // (SLICES * KC))
        units = -(-H // BN) * SLICES
        shared = (BN * weighed + BB * len(program.columns)) * chunks * KC * itemsize
        BU = BU or (BN if SLICES == 1 else _power(-(-H // units), 8))
        if BU * units < H:
            raise ValueError(f"{units} programs must own {H} units, BU each. Got BU {BU}.")
        # A second group of four warps would multiply the same 64 rows again, for half of the samples.
        found = warps or (8 if BN * BB > 1024 and not held.groups else 4)
        return GridBackwardTiles(BU, BN, SLICES, chunks, KC, BB, found, units, shared)

    held = held._replace(programs=held.programs // directions)
    gates = max((len(p.gates) for p in program.products), default=0)
    weighed = program.weighed

    cuts = [(64, slices) for slices in range(MOST_SLICES, 1, -1)] if H >= _SPLIT else [(16, 1)]
    found = [[cut(*how, BB) for BB in _batches(B)] for how in cuts]
    best = _choose([[row[0], *(c for c in row[1:] if gates * c.CHUNKS <= _ASKED)] for row in found], B, held)
    tried = overrides.tiles("grid", "backward")
    return cut(**{"BN": best.BN, "SLICES": best.SLICES, "BB": best.BB, **tried}) if tried else best


_Cut = TypeVar("_Cut", GridTiles, GridBackwardTiles)


def _choose(cuts: list[list[_Cut]], B: int, held: Limits) -> _Cut:
    """The first that fits and needs no turns; else of the first that fit the one with the largest tile of the batch."""
    last = None
    for row in cuts:
        fitting = [cut for cut in row if cut.shared <= held.shared and cut.units <= held.programs]
        for cut in fitting:
            if -(-B // cut.BB) * cut.units <= held.programs:
                return cut
        last = last or (fitting[-1] if fitting else None)
    return last or cuts[-1][0]


def _batches(B: int) -> list[int]:
    """Sizes of a tile of the batch, without those of which half would be empty."""
    return [BB for BB in (16, 32, 64) if BB == 16 or BB < 2 * B]


def grid_shared_bytes(program: Program, H: int, itemsize: int, cut: GridTiles) -> int:
    """Shared memory that the forward kernel takes at the least, in bytes: the weights and a tile in float32."""
    return _padded(program) * cut.BU * -(-H // cut.KC) * cut.KC * itemsize + cut.BU * cut.BB * 4


def _padded(program: Program) -> int:
    """Rows a unit of the weights' tiles, each product's a power of two."""
    return sum(1 << (len(p.gates) - 1).bit_length() for p in program.products if not p.reduces)


def _power(n: int, least: int = 16) -> int:
    """The next power of two."""
    return max(least, 1 << (n - 1).bit_length())


def _chunk(n: int, largest: int) -> int:
    """Columns of a chunk: the largest power of two that leaves at most an eighth of n columns empty."""
    sizes = [size for size in (512, 256, 128, 64, 32, 16) if size <= largest and -(-n // size) * size <= 1.125 * n]
    return sizes[0] if sizes else 16

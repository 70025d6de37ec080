"""How a call of compiled code is divided: among threads, and into parts that stay in a cache."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.llvm.loops.steps import MOST_ROWS
from gatefuse.kernels.codegen.llvm.products.ahead import AS_THEY_LIE, LAID_OUT_NOW
from gatefuse.kernels.runtime.threads import team, threads

# Bytes of weights from which on threads divide the units of a few samples: of fewer than a thread could have two of,
# and of others, up to so many a thread.
_NEAR, _FAR, _ROWS = 200_000, 1_000_000, 16
# Bytes of weights, as often as samples are multiplied with them, that a thread must have to be worth waking.
_WORK = 1_000_000
# Multiplications that a gate's functions cost as much time as, at the least.
_BY_UNIT = 32
# Steps of all samples up to which weights are read as they lie.
_FEW_STEPS = 12
_ROWS_AHEAD = 96  # of the input's product, which stay in a cache


class Division(NamedTuple):
    """How threads divide a call: tiles of the batch, or where ``together`` is set the units of all samples."""

    tiles: int
    threads: int
    together: bool = False

    def rows(self, B: int) -> int:
        """Samples of a tile, at most."""
        return -(-B // self.tiles)

    def arguments(self) -> dict[str, int]:
        """As compiled loops take them."""
        return team(self.threads) | {"together": int(self.together), "tiles": self.tiles, "next": 0}


def divided(cell: Cell, T: int, B: int, H: int, I: int, size: int) -> Division:
    """That of a call of so many steps, in numbers of so many bytes; I features are multiplied in it, or none."""
    bytes = cell.program.weighed * H * H * size
    # without recurrent weights there is the input's product, and what is done unit by unit
    work = bytes or len(cell.x_blocks) * H * (I + _BY_UNIT) * size
    most, worth = -(-B // MOST_ROWS), T * B * work // _WORK
    few = 2 * threads(B) > B or B == 1
    if B <= MOST_ROWS and bytes >= (_NEAR if few else _FAR):
        many = threads(min(worth, H // 16))
        if many > 1 and _ROWS * many > B:
            return Division(1, many, True)
    workers = threads(min(worth, B))
    return Division(-(-most // workers) * workers, workers)


def layout(steps: int) -> int:
    """How weights are laid out for so many steps of all samples."""
    if steps > _FEW_STEPS or torch.are_deterministic_algorithms_enabled():
        return LAID_OUT_NOW
    return AS_THEY_LIE


def steps_ahead(T: int, rows: int) -> int:
    """Steps of which the input's product is computed at once, for so many samples of a tile."""
    return min(T, max(1, _ROWS_AHEAD // rows))

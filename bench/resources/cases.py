"""Cases for the table of resources: which loops are compiled at which shapes, and how each loop cuts the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.equations.program import Program
from gatefuse.kernels.runtime.device import Limits, of_arch
from gatefuse.kernels.tiling.tiles import (
    block_shared_bytes,
    block_tiles,
    grid_backward_tiles,
    grid_shared_bytes,
    grid_tiles,
)


class Cut(NamedTuple):
    """How a loop cuts the work: samples and programs of a batch tile, and bytes of shared memory at the least."""

    batch_tile: int
    programs: int
    shared: int


class Loop(NamedTuple):
    """A loop with whole-sequence kernels, by name, and the shapes, cells and dtypes tried.

    cut: of program, H, B, the bytes of a number, what the GPU holds, and the way as compilation.Row has it.
    """

    name: str
    hidden: tuple[int, ...]
    batches: tuple[int, ...]
    cut: Callable[[Program, int, int, int, Limits, str], Cut]
    cells: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)


class Case(NamedTuple):
    """What is compiled together: a cell's passes in one loop at one shape."""

    loop: Loop
    cell: str
    dtype: torch.dtype
    H: int
    B: int

    def cut(self, arch: str, way: str = "") -> Cut:
        """How its loop cuts it on an architecture."""
        program = find_cell(self.cell).program
        return self.loop.cut(program, self.H, self.B, self.dtype.itemsize, of_arch(arch), way)


def _block_cut(program: Program, H: int, B: int, itemsize: int, held: Limits, way: str) -> Cut:
    tiles = block_tiles(H, "backward" if way == "backward" else "forward", program)
    return Cut(tiles.BB, 1, block_shared_bytes(program, H, itemsize))


def _grid_cut(program: Program, H: int, B: int, itemsize: int, held: Limits, way: str) -> Cut:
    if way == "backward":
        back = grid_backward_tiles(program, H, B, itemsize, held)
        return Cut(back.BB, back.units, back.shared)
    cut = grid_tiles(program, H, B, itemsize, held)
    return Cut(cut.BB, cut.units, grid_shared_bytes(program, H, itemsize, cut))


CELLS = ("lstm", "gru", "gru_reset_first", "peephole_lstm", "elman", "slstm")
LOOPS = (
    Loop(
        "block", (16, 20, 32, 64, 128), (16,), _block_cut, CELLS,
        (torch.bfloat16, torch.float16, torch.float32),
    ),
    Loop(
        "grid", (128, 256, 512, 768, 1024, 1536), (16, 64, 256), _grid_cut,
        ("lstm", "gru"),
    ),
    Loop("grid", (200, 512), (16,), _grid_cut, ("gru_reset_first", "peephole_lstm")),
)  # fmt: skip
# Where one 16-bit dtype compiles, so does the other, to the same figures but for a few; two cells show that.
HALF_CELLS = ("lstm", "gru")
INFERENCE_CELLS = ("lstm", "gru")


_BLOCK = LOOPS[0]._replace(hidden=(64,), dtypes=(torch.bfloat16,))
_GRID = LOOPS[1]._replace(hidden=(512,), batches=(16, 64))


def others() -> list[Loop]:
    """Each other shipped cell that has recurrent weights, at a size or two of either loop."""
    names = [name for name in cell_names() if find_cell(name).program.weighed]
    return [
        loop._replace(cells=(name,))
        for loop, tabulated in ((_BLOCK, CELLS), (_GRID, [name for each in LOOPS[1:] for name in each.cells]))
        for name in names
        if name not in tabulated
    ]


def cases(arch: str) -> Iterator[Case]:
    """All that is tabulated: float32 only where the weights fit, 16-bit dtypes also where they don't."""
    for loop in (*LOOPS, *others()):
        for name in loop.cells:
            for dtype in loop.dtypes:
                if dtype == torch.float16 and name not in HALF_CELLS:
                    continue
                for H in loop.hidden:
                    for B in loop.batches:
                        case = Case(loop, name, dtype, H, B)
                        if dtype != torch.float32 or case.cut(arch).shared <= of_arch(arch).shared:
                            yield case

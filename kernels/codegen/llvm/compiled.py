"""A cell's loops compiled for the processor at hand, once for each way, type and blocking."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from threading import RLock
from typing import Any, NamedTuple

import torch

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.loops.arguments import backward_fields, forward_fields
from gatefuse.kernels.codegen.llvm.loops.backward import backward_module
from gatefuse.kernels.codegen.llvm.loops.forward import forward_module
from gatefuse.kernels.codegen.llvm.machine_code import MachineCode
from gatefuse.kernels.codegen.llvm.processor import this_processor
from gatefuse.kernels.codegen.llvm.products.outer import INPUT_FIELDS, WEIGHTS_FIELDS, input_module, weights_module
from gatefuse.kernels.codegen.llvm.products.packing import stage_columns
from gatefuse.kernels.codegen.llvm.products.product import Blocking, blocking, input_blocking
from gatefuse.kernels.codegen.llvm.vectors import Float
from gatefuse.kernels.codegen.per_cell import per_cell


class Compiled(NamedTuple):
    """A loop as machine code.

    Attributes:
        run: takes the arguments of ``fields``; Python's lock is free while it runs.
        fields: names of the arguments.
        across, inputs: units of a panel, and outputs of one of the input's.
        code: what must live for as long as it may run.
    """

    run: Callable[[Any], None]
    fields: Fields
    across: int
    inputs: int
    code: MachineCode

    def padded(self, H: int) -> int:
        """H units in whole panels."""
        return -(-H // self.across) * self.across

    def row(self, N: int) -> int:
        """Numbers of a row of the input's product of N outputs, in whole panels."""
        return -(-N // self.inputs) * self.inputs


def _check(dtype: torch.dtype) -> None:
    """Code for a wrong size would write beyond its tensors."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"compiled code is for float32 and float64. Got {dtype}.")


def forward_loop(cell: Cell, dtype: torch.dtype, rows: int, H: int, level: str = "") -> Compiled:
    """For so many rows at once, on a processor of that level.

    Raises:
        TypeError: the dtype is neither float32 nor float64.
    """
    _check(dtype)
    program, processor = cell.program, this_processor(level)
    columns = max([1, *(len(stage_columns(program, s + 1)) for s in range(program.stages))])
    blocks = blocking(columns, rows, H, processor.lanes(dtype.itemsize), processor)
    return _once(cell, "forward", dtype.itemsize, blocks, level)


def backward_loop(cell: Cell, dtype: torch.dtype, rows: int, H: int, level: str = "") -> Compiled:
    """As forward_loop."""
    _check(dtype)
    processor = this_processor(level)
    return _once(
        cell, "backward", dtype.itemsize, blocking(1, rows, H, processor.lanes(dtype.itemsize), processor), level
    )


@cache
def products_loop(what: str, dtype: torch.dtype, level: str = "") -> Compiled:
    """That of all rows at once, for the gradients of "weights" or of the "input"."""
    _check(dtype)
    processor = this_processor(level)
    kind = Float.of(dtype.itemsize, processor)
    make, fields = (weights_module, WEIGHTS_FIELDS) if what == "weights" else (input_module, INPUT_FIELDS)
    across = input_blocking(processor).units * kind.lanes
    return _loaded(MachineCode(make(kind, processor), processor), fields, across, across)


# So that threads whose first calls come at once compile once. It may be taken again by one that has it.
_lock = RLock()


def _once(cell: Cell, *what: Any) -> Compiled:
    with _lock:
        return _compiled(cell, *what)


@per_cell
def _compiled(cell: Cell, way: str, size: int, blocks: Blocking, level: str) -> Compiled:
    program, processor = cell.program, this_processor(level)
    kind = Float.of(size, processor)
    make, fields = (forward_module, forward_fields) if way == "forward" else (backward_module, backward_fields)
    code = MachineCode(make(program, kind, blocks, processor), processor)
    return _loaded(code, fields(program), blocks.units * kind.lanes, input_blocking(processor).units * kind.lanes)


def _loaded(code: MachineCode, fields: Fields, across: int, inputs: int) -> Compiled:
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("run"))
    return Compiled(run, fields, across, inputs, code)

"""Rows asked for before their turn: which ones, and of which cells."""

import ctypes
from types import SimpleNamespace

import pytest

from gatefuse import find_cell
from gatefuse.kernels.codegen.llvm.code import I64, Code
from gatefuse.kernels.codegen.llvm.loops.forward import forward_module
from gatefuse.kernels.codegen.llvm.loops.prefetch import Prefetch
from gatefuse.kernels.codegen.llvm.machine_code import MachineCode
from gatefuse.kernels.codegen.llvm.processor import this_processor
from gatefuse.kernels.codegen.llvm.products.product import blocking
from gatefuse.kernels.codegen.llvm.routines import Module
from gatefuse.kernels.codegen.llvm.vectors import Float


@pytest.fixture(scope="module")
def ahead():
    """The distance as compiled code finds it: of first, last, row, step, place."""
    processor = this_processor()
    module = Module("ahead", processor)
    code = Code(module, "run", [(name, I64) for name in ("first", "last", "row", "step", "place")], I64, public=True)
    first, last, row, step, place = map(code.argument, range(5))
    tile = SimpleNamespace(code=code, first=first, last=last)
    code.finish(Prefetch(tile, row, step).ahead(place).value)
    made = MachineCode(module, processor)
    run = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 5)(made.address("run"))
    yield run
    del made


@pytest.mark.parametrize("rows", [1, 3, 16, 32])
@pytest.mark.parametrize("row", [4, 1024, 3000, 20_000])
@pytest.mark.parametrize("step", [1 << 16, -(1 << 16)])
def test_the_row_that_is_read_so_many_rows_later_is_asked_for(ahead, rows, row, step):
    later = -(-8192 // row)
    for place in {0, rows // 2, rows - 1}:
        steps, to = divmod(place + later, rows)
        assert ahead(5, 5 + rows, row, step, place) == steps * step + (to - place) * row


def test_a_tile_without_rows_asks_for_anything(ahead):
    ahead(5, 5, 0, 0, 0)


@pytest.mark.parametrize("name", ["min_gru", "ind_rnn", "lstm", "layer_norm_gru"])
def test_cells_without_products_ask(name):
    program, processor = find_cell(name).program, this_processor()
    kind = Float.of(4, processor)
    text = str(forward_module(program, kind, blocking(1, 8, 64, kind.lanes, processor), processor))
    assert ("llvm.prefetch" in text) == (program.weighed == 0)

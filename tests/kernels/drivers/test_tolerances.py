"""The oracle's rule where a GPU's matrix unit multiplies float32: it passes what the unit does, no more."""

import numpy as np
import pytest
import torch

from gatefuse import find_cell
from gatefuse.kernels.drivers import driver
from tests.support import oracle

TF32 = 2.0**-10


@pytest.fixture
def matrix_unit(monkeypatch):
    """The interpreter's products of float32 as sm_90 has them: of each factor the last 13 bits are dropped."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    if torch.cuda.is_available():
        pytest.skip("kernels run on the GPU itself")
    product = interpreter.InterpreterBuilder.create_dot

    def cut(handle):
        if handle.data.dtype != np.float32:
            return handle
        bits = np.ascontiguousarray(handle.data).view(np.uint32) & np.uint32(0xFFFFE000)
        return interpreter.TensorHandle(bits.view(np.float32), handle.dtype)

    def create_dot(self, a, b, *rest):
        return product(self, cut(a), cut(b), *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(oracle, "rounding", lambda *args: TF32)


@pytest.mark.parametrize("name", ["block", "grid"])
@pytest.mark.parametrize(
    ("cell", "T", "B", "H"),
    [("gru_reset_first", 4, 3, 7), ("lstm", 1, 1, 1), ("lstm", 2, 5, 100), ("peephole_lstm", 1, 1, 1)],
)
def test_factors_that_are_cut_off_are_no_fault(matrix_unit, name, cell, T, B, H):
    oracle.check(driver(name), oracle.make_task(find_cell(cell), T, B, H), torch.float32)


def test_a_gate_that_is_off_by_more_is_one(matrix_unit):
    class Off:
        @staticmethod
        def run(task):
            states = (task.states[0] * 1.02, *task.states[1:])
            return driver("block").run(oracle.dataclasses.replace(task, states=states))

    with pytest.raises(AssertionError, match="must err at most by"):
        oracle.check(Off, oracle.make_task(find_cell("lstm"), 4, 3, 7), torch.float32)


def test_it_holds_on_a_device_and_for_what_multiplies_there_alone():
    for name in ("block", "grid", "step"):
        eps = TF32 if name != "step" else torch.finfo(torch.float32).eps
        assert oracle.rounding(driver(name), torch.float32, "cuda") == eps
        assert oracle.rounding(driver(name), torch.float32, "cpu") == torch.finfo(torch.float32).eps
        assert oracle.rounding(driver(name), torch.float16, "cuda") == torch.finfo(torch.float16).eps

"""Compiled code in the ways that it has for more threads, for other processors and for few steps, by the rule of all
drivers."""

import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from gatefuse import Recurrent, find_cell
from gatefuse.kernels.codegen.llvm.processor import LEVELS, SETTING, this_processor
from gatefuse.kernels.drivers import llvm
from gatefuse.kernels.loops.llvm import division as llvm_division
from gatefuse.kernels.plan import choose
from gatefuse.kernels.runtime import threads as pool
from gatefuse.kernels.runtime.threads import threads
from gatefuse.kernels.task import Request
from tests.support.kernels.compiling import ROOT
from tests.support.layers import flat
from tests.support.oracle import check, make_task

CELLS = ["lstm", "gru", "gru_reset_first", "peephole_lstm", "slstm"]
MASKS = {"lengths": True, "resets": True, "fresh": True, "all_states": True}
# of 32 bits, from where threads divide the samples or, of few and large ones, the units
DIVIDED = {"samples": (6, 9, 64), "units of few": (8, 2, 128), "units": (2, 20, 288), "tiles": (2, 230, 24)}


@pytest.fixture(params=[2, 3, 5])
def many(request, monkeypatch):
    """Threads, also more than there are processors, which no call has by itself."""
    monkeypatch.setattr(pool, "_processors", lambda: request.param)
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.fixture
def nothing_deterministic(monkeypatch):
    """As users have it; buffers are poisoned all the same."""
    monkeypatch.setenv("GATEFUSE_DEBUG", "1")
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shape", DIVIDED.values(), ids=DIVIDED)
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first", "slstm"])
def test_threads_divide_a_call(many, cell, shape):
    assert threads(100) == many
    check(llvm, make_task(find_cell(cell), *shape, **MASKS), torch.float32)


@pytest.mark.parametrize("shape", DIVIDED.values(), ids=DIVIDED)
@pytest.mark.parametrize("cell", CELLS)
def test_threads_divide_layers_of_which_nothing_is_differentiated(many, cell, shape):
    T, B, H = shape
    layer = Recurrent(cell, 5, H, 2, bidirectional=True, driver="llvm", dtype=torch.float64)
    x, lengths = torch.randn(T, B, 5, dtype=torch.float64), torch.randint(0, T + 1, (B,))
    for options in ({}, {"lengths": lengths}, {"lengths": lengths, "resets": torch.rand(T, B) < 0.3}):
        expected = flat(layer(x, **options))
        with torch.no_grad():
            found = [flat(layer(x, **options)) for _ in range(2)]
        assert_close(found[0], expected)
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("shape", DIVIDED.values(), ids=DIVIDED)
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("cell", ["augru", "gru_d"])
def test_threads_divide_layers_with_inputs_beside_the_gates(many, cell, trains, shape):
    T, B, H = shape
    ours, oracle = (Recurrent(cell, 5, H, 2, driver=name, dtype=torch.float64) for name in ("llvm", "eager"))
    ours.load_state_dict(oracle.state_dict())
    (name,) = ours.cell.inputs
    for size in ((T, B), (1, B, H), (T, 1, H)):
        x, a = torch.randn(T, B, 5, dtype=torch.float64), torch.rand(size, dtype=torch.float64, requires_grad=trains)
        with torch.set_grad_enabled(trains):
            found, expected = (layer(x, inputs={name: a}) for layer in (ours, oracle))
        assert_close(found, expected)
        if trains:
            gradients = [
                torch.autograd.grad(output.square().sum(), [a, *layer.parameters()])
                for (output, _), layer in ((found, ours), (expected, oracle))
            ]
            assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 1, 64), (1, 12, 33), (3, 4, 40), (12, 1, 100), (2, 6, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_few_steps_read_weights_as_they_lie(nothing_deterministic, cell, dtype, shape):
    for options in ({}, {"bias": False, "reverse": True, **MASKS}):
        check(llvm, make_task(find_cell(cell), *shape, **options), dtype)


@pytest.mark.parametrize("shape", [(1, 1, 7), (3, 4, 40), (30, 3, 20)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_layers_of_few_steps_and_of_many(nothing_deterministic, cell, shape):
    T, B, H = shape
    ours, oracle = (
        Recurrent(cell, 5, H, 2, bidirectional=True, driver=d, dtype=torch.float64) for d in ("llvm", "eager")
    )
    ours.load_state_dict(oracle.state_dict())
    x = torch.randn(T, B, 5, dtype=torch.float64)
    with torch.no_grad():
        for options in ({}, {"lengths": torch.randint(0, T + 1, (B,))}):
            assert_close(flat(ours(x, **options)), flat(oracle(x, **options)))


_PROGRAM = """
import torch
from gatefuse import find_cell
from gatefuse.kernels.codegen.llvm.processor import this_processor
from gatefuse.kernels.drivers import llvm
from gatefuse.kernels.plan import choose
from tests.support.oracle import check, make_task

torch.set_num_threads(1)
for cell in ("lstm", "gru_reset_first"):
    for dtype in (torch.float32, torch.float64):
        for shape in ((4, 3, 7), (3, 5, 70)):
            for options in ({}, dict(lengths=True, resets=True, fresh=True, all_states=True, reverse=True, bias=False)):
                check(llvm, make_task(find_cell(cell), *shape, **options), dtype)
print(this_processor().bytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_processor(level):
    try:
        expected = this_processor(level).bytes
    except RuntimeError as why:
        pytest.skip(str(why))
    environment = {**os.environ, SETTING: level}
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(expected)]


def test_a_level_that_there_is_not():
    with pytest.raises(ValueError, match=r"GATEFUSE_CPU must be one of avx512, avx2, baseline\. Got 'mmx'\."):
        this_processor("mmx")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_sample_s_bits_depend_on_neither_batch_nor_threads(nothing_deterministic, cell, dtype):
    """Of more than 12 steps and samples; docs/cpu.md says so."""
    layer = Recurrent(cell, 9, 70, driver="llvm", dtype=dtype)
    x = torch.randn(14, 100, 9, dtype=dtype)
    expected = layer(x)[0].detach()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.no_grad():
                for B in (1, 2, 5, 17, 100):
                    assert torch.equal(layer(x[:, :B].contiguous())[0], expected[:, :B])
            assert torch.equal(layer(x)[0], expected)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("cell", "T", "B", "H", "options", "driver"),
    [
        ("gru", 1, 1, 64, {}, "llvm"),
        ("elman", 1, 1, 64, {}, "llvm"),
        ("lstm", 1, 1, 64, {}, "llvm"),
        ("gru", 1, 1, 320, {"needs_grad": True}, "vendor"),
        ("gru", 2, 1, 320, {"needs_grad": True}, "llvm"),
        ("gru", 1, 4, 320, {"needs_grad": True}, "llvm"),
        ("gru", 1, 1, 64, {"needs_grad": True}, "llvm"),
        ("lstm", 1, 1, 256, {"needs_grad": True}, "vendor"),
        ("lstm", 1, 1, 64, {"needs_grad": True}, "llvm"),
        ("elman", 1, 16, 128, {"needs_grad": True}, "vendor"),
        ("elman", 1, 1, 4096, {"needs_grad": True}, "vendor"),
        ("elman", 1, 16, 256, {"needs_grad": True}, "llvm"),
        ("gru_reset_first", 1, 1, 512, {"needs_grad": True}, "llvm"),
        ("gru", 1, 1, 320, {"needs_grad": True, "resets": True}, "llvm"),
        ("gru", 1, 1, 320, {"needs_grad": True, "lengths": True}, "llvm"),
        ("elman", 1, 1, 64, {"needs_grad": True, "all_states": True}, "llvm"),
    ],
)
def test_a_single_step_is_torch_s_where_torch_trains_it_sooner(cell, T, B, H, options, driver):
    plan = choose(Request(find_cell(cell), torch.device("cpu"), torch.float32, T, B, H, **options))
    assert plan.driver == driver, str(plan)


@pytest.mark.parametrize(("cell", "I"), [("min_gru", 256), ("sru", 0), ("ind_rnn", 0), ("lstm", 0)])
def test_threads_divide_cells_without_recurrent_weights_too(monkeypatch, cell, I):
    monkeypatch.setattr(llvm_division, "threads", lambda most: max(1, min(most, 2)))
    version = find_cell(cell).current()
    assert llvm_division.divided(version, 1000, 32, 256, I, 4).threads == 2
    assert llvm_division.divided(version, 1, 2, 8, 8, 4).threads == 1

"""The floor: what a call needs at least, what the device can do, and how the two make a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gatefuse import cell
from gatefuse.bench.measure import peaks as module
from gatefuse.bench.measure.clocks import CpuClock
from gatefuse.bench.measure.peaks import Limits
from gatefuse.bench.measure.row import Row
from gatefuse.bench.measure.sampling import Samples
from gatefuse.bench.measure.work import traffic
from gatefuse.bench.suite.sweeps import Group, Shape
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.runtime.device import Limits as Held
from gatefuse.kernels.tiling.tiles import grid_tiles
from tests.support.kernels.compiling import compiling

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
I, H, B, T = 4, 8, 2, 3
LSTM = Group(Shape("lstm", H, B, T, I), "float32", "forward")


def of(group, **more):
    return traffic(replace(group, shape=replace(group.shape, **more)))


def test_operations_are_those_of_both_products_and_thrice_in_training():
    once = 2 * T * B * 4 * H * (I + H)
    assert traffic(LSTM).flop == once
    assert traffic(replace(LSTM, mode="training")).flop == 3 * once
    assert of(LSTM, heads=2).flop == once - 2 * T * B * (4 * H) * (H // 2)
    assert of(LSTM, cell="gru").flop == once * 3 / 4
    # its candidate has no recurrent product
    assert of(LSTM, cell="article_peephole_lstm").flop == 2 * T * B * (4 * H * I + 3 * H * H)
    assert of(LSTM, layers=2, bidirectional=True).flop == 2 * T * B * 4 * H * 2 * ((I + H) + (2 * H + H))
    assert of(LSTM, fill=0.5).flop == once / 2


def test_bytes_are_inputs_weights_and_outputs_and_in_training_states_and_gradients():
    x, weights, output, cells = T * B * I, 4 * H * (I + H + 2), T * B * H, T * B * H
    assert traffic(LSTM).bytes == 4 * (x + weights + output)
    training = replace(LSTM, mode="training")
    assert traffic(training).bytes == 4 * (3 * x + 3 * weights + 3 * output + 2 * cells)
    assert traffic(replace(training, dtype="bfloat16")).bytes == traffic(training).bytes / 2
    both = of(LSTM, bidirectional=True).bytes
    assert both == 4 * (x + 2 * weights + 2 * output)


def test_bytes_of_what_is_learned_alone():
    equations = find_cell("peephole_lstm").equations
    whole = cell(gates="i f g o")(equations)
    fewer = cell(gates="i f g o", bias="i f:x", scalars="p_i")(equations)
    numbers = [traffic(replace(LSTM, shape=replace(LSTM.shape, cell=each))).bytes / 4 for each in (whole, fewer)]
    assert numbers[0] - numbers[1] == 5 * H + H - 1  # biases: f's beside R, both of g's and of o's


def test_meetings_are_steps_times_stages():
    assert traffic(LSTM).meetings == T
    assert traffic(replace(LSTM, mode="training")).meetings == 2 * T
    assert of(LSTM, cell="gru_reset_first", layers=2).meetings == 2 * T * 2
    assert of(LSTM, bidirectional=True, fill=0.25).meetings == T


def make_limits(matrix, copy, barrier):
    found = Limits(CPU, CpuClock())
    found.matrix_rate = lambda dtype: matrix
    found.copy_rate = lambda: copy
    found.barrier = lambda programs, side_by_side: barrier
    return found


@pytest.mark.parametrize(
    ("rates", "seconds", "by"),
    [
        ((1e3, 1e9, 0.0), lambda t: t.flop / 1e3, "matrix"),
        ((1e9, 1e3, 0.0), lambda t: t.bytes / 1e3, "bytes"),
        ((1e9, 1e9, 1.0), lambda t: t.flop / 1e9 + T, "barrier"),
        ((1e3, 1e9, float("nan")), lambda t: t.flop / 1e3, "matrix"),
    ],
)
def test_the_floor_is_the_larger_of_two_times_and_the_meetings(rates, seconds, by):
    floor = make_limits(*rates).floor(LSTM)
    assert floor.floor_seconds == pytest.approx(seconds(traffic(LSTM)))
    assert floor.floor_by == by
    row = Row(LSTM, "one", floor=floor)
    row.take(Samples([2 * floor.floor_seconds] * 3))
    held = row.columns()
    assert held["floor_share"] == pytest.approx(0.5)
    assert (held["flop"], held["bytes"]) == traffic(LSTM)[:2]
    assert (held["matrix_rate"], held["copy_rate"], held["floor_by"]) == (*rates[:2], by)


def test_a_cpu_is_measured_once_and_has_no_barrier(monkeypatch):
    monkeypatch.setitem(module._PRODUCT, "cpu", 64)
    monkeypatch.setitem(module._COPY, "cpu", 1 << 16)
    found = Limits(CPU, CpuClock())
    floor = found.floor(LSTM)
    assert floor.barrier_seconds == 0
    assert floor.matrix_rate > 0
    assert floor.copy_rate > 0
    assert floor.floor_by in ("matrix", "bytes")
    assert found.floor(LSTM) == floor


@pytest.mark.parametrize(("H", "B"), [(128, 64), (512, 16), (512, 64), (512, 4096), (4096, 16)])
def test_as_many_programs_meet_as_share_the_weights(monkeypatch, H, B):
    held = Held(232_448, 132)
    for name in ("gatefuse.bench.measure.peaks.limits", "gatefuse.kernels.drivers.block.limits"):
        monkeypatch.setattr(name, lambda device: held)
    found = Limits(torch.device("cuda"), CpuClock())
    programs, side_by_side = found._meeting(Group(Shape("lstm", H, B, T, I), "float16", "forward"))
    if H == 128:  # one program holds the weights
        assert (programs, side_by_side) == (1, 1)
        return
    cut = grid_tiles(find_cell("lstm").program, H, B, 2, held)
    assert programs == min(cut.units, 132) > 1
    assert 1 <= side_by_side <= -(-B // cut.BB)
    assert programs * side_by_side <= 132  # a cooperative launch is refused otherwise


def test_a_barrier_that_can_t_be_measured_is_no_number(monkeypatch):
    def fail(self, programs, side_by_side):
        raise RuntimeError("no cooperative launch")

    monkeypatch.setattr(Limits, "_barrier_loop", fail)
    found = Limits(torch.device("cuda"), CpuClock()).barrier(2, 1)
    assert found != found


def test_the_barrier_s_time_is_free_of_the_launch(monkeypatch):
    """A launch that takes a second, and a microsecond a meeting."""

    class Launch:
        def __getitem__(self, grid):
            return lambda counters, meetings, **constants: launched.append((grid, meetings, constants))

    class Clock(CpuClock):
        def sample(self, call, repeats):
            call()
            return 1.0 + 1e-6 * launched[-1][1]

    launched = []
    monkeypatch.setattr("gatefuse.bench.measure.barrier_loop.barrier_loop_kernel", Launch())
    found = Limits(CPU, Clock())
    assert found._barrier_loop(32, 2) == pytest.approx(1e-6)
    assert launched[0][0] == (32, 2)
    assert launched[0][2]["launch_cooperative_grid"]
    assert found._barrier_loop(1, 1) == pytest.approx(1e-6)
    assert launched[-1][2] == {"FORM": "block", "num_warps": 4}


_COMPILE = """
import torch
from triton.backends.compiler import GPUTarget
from gatefuse.bench.measure.barrier_loop import barrier_loop_kernel
from gatefuse.kernels.runtime.launcher import compile_only, launch

counters = torch.zeros(4, dtype=torch.int32)
for form in ("ptx", "portable", "block"):
    with compile_only(GPUTarget("cuda", 90, 32)) as kernels:
        launch(barrier_loop_kernel, (4, 4), counters, 2000, FORM=form, num_warps=4)
    (kernel,) = kernels.values()
    loop = kernel.asm["ptx"].split("$L__BB0_")[1:]
    print(form, *(sum(part.count(what) for part in loop) for what in ("bar.sync", "acquire", "release")))
"""


@pytest.mark.slow
def test_the_compiler_leaves_the_barriers_in_the_loop(tmp_path):
    lines = compiling(_COMPILE, tmp_path)
    found = {line.split()[0]: [int(n) for n in line.split()[1:]] for line in lines}
    assert found.keys() == {"ptx", "portable", "block"}
    assert all(count >= 1 for form in ("ptx", "portable") for count in found[form])
    assert found["block"][0] >= 1
    assert found["block"][1:] == [0, 0]


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, 5e10), (1e-9, 2.0 * 64**3 / 1e-9)])
def test_16_bits_are_no_slower_than_float32_on_a_cpu(monkeypatch, seconds, expected):
    """In which compiled code computes them; torch's own product may take a hundred times as long."""
    monkeypatch.setitem(module._PRODUCT, "cpu", 64)
    found = Limits(CPU, CpuClock())
    found._best = lambda call: seconds
    found.matrix_rate = lambda dtype: {"float32": 5e10}[dtype]
    assert found._matrix_rate("float16") == pytest.approx(expected)

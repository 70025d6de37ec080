"""The step loop in recorded parts: on a CPU a recording is a function that runs again, on a GPU a CUDA graph."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import gatefuse
from gatefuse import find_cell
from gatefuse.kernels.drivers import step
from gatefuse.kernels.runtime.graphs import recording
from gatefuse.kernels.tiling import segments as cutting
from gatefuse.kernels.tiling.segments import Part, parts
from tests.support import made_up_cells
from tests.support.oracle import cast, check, make_task, results

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
OPTIONS = {
    "plain": {},
    "reverse": {"reverse": True, "all_states": True},
    "masks": {"lengths": True, "resets": True, "fresh": True},
    "reverse masks": {"lengths": True, "resets": True, "reverse": True, "bias": False, "all_states": True},
}


@pytest.fixture
def replays(monkeypatch):
    """How often a recording was replayed; on a CPU, with recordings that run the function again."""
    count = []

    def capture(function):
        outputs = function()

        def replay():
            count.append(1)
            for mine, new in zip(outputs, function(), strict=True):
                if mine is not None:
                    mine.copy_(new)

        return replay, outputs

    if not torch.cuda.is_available():
        monkeypatch.setattr(recording, "capture", capture)
        monkeypatch.setattr(recording, "possible", lambda device: True)
    monkeypatch.setattr(cutting, "LENGTHS", (4, 2))
    recording.forget()
    yield count
    recording.forget()


def test_parts_cover_every_step_once_in_the_order_of_running():
    assert parts(43, False) == [Part(0, 32, True), Part(32, 40, True), Part(40, 43, False)]
    assert parts(43, True) == [Part(11, 43, True), Part(3, 11, True), Part(0, 3, False)]
    assert parts(64, True) == [Part(32, 64, True), Part(0, 32, True)]


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        *((find_cell("lstm"), options) for options in OPTIONS),
        (find_cell("gru_reset_first"), "reverse masks"),
        (find_cell("slstm"), "masks"),
        (made_up_cells.mixed_stage, "masks"),
        (made_up_cells.attending, "reverse"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_replayed_parts_give_what_launches_give(replays, device, cell, options):
    options = OPTIONS[options]
    task = cast(make_task(cell, 11, 3, 5, **options), torch.float32, device)
    launched = results(step, task)
    assert not replays
    # Other weights and inputs go through the same recordings.
    check(step, make_task(cell, 11, 3, 5, seed=1, **options), torch.float32, device)
    replayed = results(step, task)
    # Parts are added up in another order than steps, and d_parameters with them.
    assert all(torch.allclose(replayed[name], value, rtol=1e-5, atol=1e-6) for name, value in launched.items())
    assert len(recording._recordings) == 2 * 2  # ways, lengths
    assert all(recording._recordings.values())
    if device == "cpu":
        assert len(replays) == 2 * 2 * 3  # calls, ways, parts


def test_sixteen_bits_carry_float32_from_part_to_part(replays):
    check(step, make_task(find_cell("lstm"), 11, 3, 5), torch.float16)
    task = cast(make_task(find_cell("lstm"), 11, 3, 5), torch.float16)
    launched = results(step, task)
    assert replays
    recording.forget()
    replayed = results(step, task)
    assert all(torch.equal(replayed[name], value) for name, value in launched.items() if "weight" not in name)


def test_a_shape_that_comes_once_is_launched(replays):
    task = cast(make_task(find_cell("gru"), 8, 2, 3), torch.float32)
    step.run(task)
    assert not recording._recordings
    step.run(task)
    assert len(recording._recordings) == 1


ASKED = """
import torch
from gatefuse.kernels.loops.triton.step import _products

matmul, keys = torch.backends.cuda.matmul, [_products()]
for setting in (
    "torch.set_float32_matmul_precision('high')",
    "matmul.allow_tf32 = False",
    "matmul.fp32_precision = 'tf32'",
    "matmul.fp32_precision = 'ieee'",
    "matmul.allow_fp16_reduced_precision_reduction = False",
    "matmul.allow_bf16_reduced_precision_reduction = False",
    "matmul.allow_fp16_accumulation = True",
    "torch.use_deterministic_algorithms(True)",
):
    exec(setting)
    keys.append(_products())
    assert keys[-1] != keys[-2], setting
"""


def test_products_are_as_the_user_asks_now_and_not_as_when_they_were_recorded():
    """In a process of its own, as torch refuses to be asked the older way what was set the newer way."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", ASKED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_recording_is_found_by_what_is_asked_of_products(replays):
    task = cast(make_task(find_cell("gru"), 8, 2, 3), torch.float32)
    for count, deterministic in ((1, True), (2, False), (2, True)):
        torch.use_deterministic_algorithms(deterministic)
        with torch.no_grad():
            step.run(task)
            step.run(task)
        assert len(recording._recordings) == count


def test_inference_mode_and_training_share_recordings(replays):
    task = cast(make_task(find_cell("gru"), 8, 2, 3), torch.float32)
    with torch.inference_mode():
        expected = [step.run(task).sequences[0].clone() for _ in range(2)][1]
    with torch.no_grad():
        assert torch.equal(step.run(task).sequences[0], expected)


@pytest.mark.parametrize(
    ("limit", "value", "kept"), [("ROOM", 0, 1), ("ROOM", 5 * 2**20, 2), ("MOST", 0, 1), ("MOST", 2, 2)]
)
def test_old_recordings_make_room(replays, monkeypatch, limit, value, kept):
    """By bytes, of which each takes 2 MiB at least, and by number."""
    tasks = [cast(make_task(find_cell("elman"), 4, B, 3), torch.float32) for B in (1, 2, 3, 4)]
    monkeypatch.setattr(recording, limit, value)
    with torch.no_grad():
        for task in tasks:
            expected = step.run(task).sequences[0]
            assert torch.equal(step.run(task).sequences[0], expected)
        latest = list(recording._recordings.values())
        assert len(latest) == kept
        step.run(tasks[-1])
    assert list(recording._recordings.values()) == latest  # the one that was used last is among them


def test_a_graph_s_memory_is_counted_in_the_segments_that_it_takes():
    mib = 2**20
    assert recording.pool_bytes([]) == recording.pool_bytes([100, mib]) == 2 * mib
    assert recording.pool_bytes([mib, mib, 1]) == 4 * mib
    assert recording.pool_bytes([mib + 1]) == (2 + 20) * mib
    assert recording.pool_bytes([10 * mib + 1, 3 * mib, 10]) == (12 + 20 + 2) * mib


@pytest.mark.parametrize(
    ("pool", "at", "lasting"), [((0, 0), 0, True), ((0, 5), 0, False), ((7, 0), 0, False), ((0, 5), 2**21, True)]
)
def test_nothing_is_recorded_into_memory_that_others_give_away(monkeypatch, pool, at, lasting):
    """As a warm-up of torch.compile's CUDA graphs allocates, with an allocator in the place of torch's."""
    probe = torch.empty(1)
    segment = {"address": probe.data_ptr() - 512 + at, "total_size": 2**21, "segment_pool_id": pool}
    monkeypatch.setattr(torch, "empty", lambda *size, device: probe)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: [segment])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=1))
    monkeypatch.setattr(recording, "Recording", lambda function, inputs: SimpleNamespace(bytes=0))
    given = SimpleNamespace(device=torch.device("cuda"))
    assert (recording.find("key", None, (given,)) is not None) == lasting
    assert len(recording._recordings) == lasting
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: [{**segment, "segment_pool_id": (0, 0)}])
    assert recording.find("key", None, (given,)) is not None
    recording.forget()


def test_where_recording_fails_kernels_are_launched(replays, monkeypatch):
    def fails(function):
        raise RuntimeError("no graph today")

    monkeypatch.setattr(recording, "capture", fails)
    task = cast(make_task(find_cell("elman"), 9, 2, 3), torch.float32)
    expected = results(step, task)
    with pytest.warns(RuntimeWarning, match="recording them failed: no graph today"):
        found = results(step, task)
    assert all(torch.allclose(found[name], value, rtol=1e-5, atol=1e-6) for name, value in expected.items())


def test_the_environment_forbids_recordings(monkeypatch):
    assert not recording.possible(torch.device("cpu"))
    monkeypatch.setenv("GATEFUSE_GRAPHS", "0")
    assert not recording.possible(torch.device("cuda"))


@pytest.mark.gpu
def test_recordings_outlive_the_memory_of_compiled_calls():
    """The second call of a shape, which would record it, is the warm-up of torch.compile's own graphs."""
    recording.forget()
    layer, x = gatefuse.Recurrent("gru", 4, 8, driver="step", device="cuda"), torch.randn(40, 2, 4, device="cuda")
    with torch.no_grad():
        expected = layer(x)[0].clone()
        compiled = torch.compile(layer, mode="reduce-overhead")
        for _ in range(4):
            assert torch.allclose(compiled(x)[0], expected, rtol=1e-5, atol=1e-6)
            assert torch.allclose(layer(x + 0)[0], expected, rtol=1e-5, atol=1e-6)
    assert all(recording._recordings.values())
    recording.forget()

"""The step loop in recorded parts: on a CPU a recording is a function that runs again, on a GPU a CUDA graph."""

import pytest
import torch

from gatefuse import find_cell
from gatefuse.kernels import parts as cutting
from gatefuse.kernels import recording
from gatefuse.kernels.drivers import step
from gatefuse.kernels.parts import Part, parts
from tests import cells_on_the_spot
from tests.oracle import cast, check, make_task, results

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
        (cells_on_the_spot.mixed_stage, "masks"),
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


def test_inference_mode_and_training_share_recordings(replays):
    task = cast(make_task(find_cell("gru"), 8, 2, 3), torch.float32)
    with torch.inference_mode():
        expected = [step.run(task).sequences[0].clone() for _ in range(2)][1]
    with torch.no_grad():
        assert torch.equal(step.run(task).sequences[0], expected)


def test_old_recordings_make_room(replays, monkeypatch):
    tasks = [cast(make_task(find_cell("elman"), 4, B, 3), torch.float32) for B in (1, 2, 3)]
    monkeypatch.setattr(recording, "ROOM", 0)
    with torch.no_grad():
        for task in tasks:
            expected = step.run(task).sequences[0]
            assert torch.equal(step.run(task).sequences[0], expected)
    assert len(recording._recordings) == 1


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

"""A language model's checkpoint: damaged, of something else, of another run, or in no place; nothing is lost by it."""

import resource
import time
from pathlib import Path
from threading import Thread

import pytest
import torch

from gatefuse.models.language import checkpoint as checkpoints
from gatefuse.models.language.__main__ import main
from gatefuse.models.language.corpus import find_text, prepare
from gatefuse.models.language.training import Settings, Trainer
from tests.support import language_commands
from tests.support.language_commands import SMALL, finals, refused, run, train

folder = language_commands.folder


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("full")])
def test_who_is_stopped_while_writing_keeps_the_checkpoint_before(monkeypatch, error):
    train(epochs=2)
    before = Path("language.pt").read_bytes()

    def save(contents, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(SystemExit) as stop:
        train(epochs=4)
    assert stop.value.code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert Path("language.pt").read_bytes() == before
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["language.pt", "text.txt"]


def test_a_damaged_checkpoint_is_refused_and_kept(capsys):
    train(epochs=1)
    whole = Path("language.pt").read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        Path("language.pt").write_bytes(whole[:size])
        for command in (["generate"], ["train", "--text", "text.txt", *SMALL]):
            said = refused(capsys, *command)
            assert "checkpoint must be a whole file that train wrote. Got language.pt" in said
        assert Path("language.pt").read_bytes() == whole[:size]


def test_a_checkpoint_of_something_else_is_refused(capsys):
    for contents in ({"weight": torch.zeros(3)}, [1, 2], torch.nn.LSTM(3, 4).state_dict()):
        torch.save(contents, "other.pt")
        said = refused(capsys, "generate", "--checkpoint", "other.pt")
        assert "checkpoint must be of a gatefuse language model. Got other.pt, which holds something else." in said
    torch.save(torch.nn.LSTM(3, 4), "other.pt")  # a pickle, which is not run
    assert "a whole file that train wrote" in refused(capsys, "generate", "--checkpoint", "other.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curve": None}, "'NoneType' object is not iterable"),
        ({"vocabulary": ["a", "b"]}, "its vocabulary is none"),
        ({"vocabulary": ["<unk>", "b"]}, "Error(s) in loading state_dict for LanguageModel:"),
        ({"settings": {"hidden": 0}}, "hidden must be at least 1. Got 0."),
        ({"settings": {"colour": 1}}, "colour"),
        ({"weights": {}}, "Error(s) in loading state_dict"),
    ],
)
def test_a_checkpoint_that_does_not_fit_together(capsys, change, message):
    train(epochs=1)
    torch.save({**torch.load("language.pt"), **change}, "language.pt")
    said = refused(capsys, "generate")
    assert "checkpoint must hold a model that fits together. Got language.pt: " in said
    assert message in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden", "8"], "hidden 16 where 8 is asked for"),
        (["--network", "lstm", "--seed", "3"], "network gru where lstm is asked for, seed 0 where 3 is asked for"),
        (["--max-tokens", "200"], "860 chars where 200 chars are asked for"),
        (["--tokens", "word"], "860 chars where 180 words are asked for"),
        (["--text", "other.txt"], "the text text.txt where other.txt is asked for"),
        (["--min-freq", "30"], "a vocabulary of 28 where another of "),
    ],
)
def test_a_checkpoint_of_another_run_is_kept(capsys, options, message):
    train(epochs=1)
    Path("other.txt").write_text("the quick brown fox jumps over the lazy dot " * 20 + "x" * 3)
    before = Path("language.pt").read_bytes()
    said = refused(capsys, "train", "--text", "text.txt", *SMALL, *options)
    assert "checkpoint must be of the same run to go on, or --checkpoint another file. Got language.pt with " in said
    assert Path("language.pt").read_bytes() == before
    assert message in said


def test_a_flipped_bit_is_found(capsys):
    """Wherever it changes what is read; between the parts of the file there are bytes that nobody reads."""
    train(epochs=1)
    path = Path("language.pt")
    whole, expected = path.read_bytes(), checkpoints.load(path)
    found = 0
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        try:
            weights = checkpoints.load(path).weights
        except ValueError as error:
            found += "checkpoint must be a whole file that train wrote. Got language.pt, " in str(error)
        else:
            assert all(torch.equal(value, expected.weights[name]) for name, value in weights.items())
    assert found > 20


def test_a_place_that_cant_be_written_is_found_before_the_first_epoch(capsys):
    name = "x" * 252  # with .lock it is longer than a file's name may be
    assert "name too long" in refused(capsys, "train", "--text", "text.txt", *SMALL, "--checkpoint", name)
    assert "File exists" in refused(capsys, "train", "--text", "text.txt", *SMALL, "--checkpoint", "text.txt/x.pt")
    assert [path.name for path in Path.cwd().iterdir()] == ["text.txt"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before():
    train(epochs=1)
    before = Path("language.pt").read_bytes()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1, len(before) - 1))

    process = run("train", "--text", "text.txt", *SMALL, "--epochs", "2", preexec_fn=limit)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    last = said.splitlines()[-1]
    assert last.startswith("gatefuse.models.language: ")
    assert "language.pt" in last
    assert Path("language.pt").read_bytes() == before
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["language.pt", "text.txt"]


def test_two_savers_and_one_who_looks_whether_it_can_be_written_break_no_load():
    trainer = Trainer(prepare(find_text("text.txt")), Settings("gru", hidden=64, batch=4, steps=6))
    path, failed = Path("language.pt"), []

    def work(task):
        try:
            for _ in range(30):
                task()
        except BaseException as error:
            failed.append(error)

    checkpoints.save(path, trainer)
    tasks = [lambda: checkpoints.save(path, trainer)] * 2 + [lambda: checkpoints.check_writable(path)]
    workers = [Thread(target=work, args=[task]) for task in tasks]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        checkpoints.load(path)
    for worker in workers:
        worker.join()
    assert not failed


@pytest.mark.slow
def test_a_second_training_into_one_checkpoint_is_refused(capsys):
    process = run("train", "--text", "text.txt", *SMALL, "--epochs", "100000")
    try:
        until = time.monotonic() + 60
        while not Path("language.pt").exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
        said = refused(capsys, "train", "--text", "text.txt", *SMALL)
        assert f"language.pt must be written by one run at a time. Got process {process.pid} (" in said
        assert said.endswith("wait for its end, stop it, or give --checkpoint another file.")
        train("--checkpoint", "other.pt", epochs=1)
        main(["generate", "--count", "3"])  # who reads is not locked out
        before = len(finals()[0])
        while len(finals()[0]) == before and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert process.poll() is None  # nor is the first harmed
    finally:
        process.kill()
        process.communicate()
    train(epochs=len(finals()[0]) + 1)
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["language.pt", "other.pt", "text.txt"]

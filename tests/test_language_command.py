"""The language model's command line: training, stopping, going on, writing, and all that can be wrong with a file."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.distributed as dist

from gatefuse.models import checkpoint as checkpoints
from gatefuse.models.corpus import PLACE
from gatefuse.models.language_command import main

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--hidden", "16", "--batch", "4", "--steps", "6", "--network", "gru", "--device", "cpu"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where each test runs: with a text, an empty cache, and no network."""

    def urlopen(*args, **options):
        raise URLError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PLACE, raising=False)
    monkeypatch.setenv("GATEFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 20)
    return tmp_path


def train(*options, epochs=3):
    main(["train", "--text", "text.txt", *SMALL, "--epochs", str(epochs), *options])


def run(*arguments, launch=("-m", "gatefuse.models.language"), **options):
    """The command as a process of one thread, with warnings as errors."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        environment[name] = "http://127.0.0.1:9"  # where nobody answers
    return subprocess.Popen(
        [sys.executable, *launch, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def refused(capsys, *arguments):
    """What the command says on its way out."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("gatefuse.models.language: ")
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    return said


def test_trains_and_writes(capsys):
    train("--prefix", "the q")
    said = capsys.readouterr()
    assert said.out.startswith("text: text.txt, 860 chars, vocabulary of 28\n")
    assert re.search(r"epoch 3: perplexity \d+\.\d{3}, \d+ tokens/s\nthe q.{50}\n$", said.out)
    assert "epoch 1 of 3: perplexity" in said.err
    main(["generate", "--prefix", "The 7", "--count", "9"])
    said = capsys.readouterr()
    assert re.fullmatch(r"the <unk>[a-z <>]{9,}\n", said.out)
    assert said.err.endswith("read as <unk>, since the vocabulary lacks them: 7\n")
    drawn = []
    for seed in ("0", "0", "1"):
        main(["generate", "--temperature", "1", "--seed", seed])
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1] != drawn[2]


def test_words_are_joined_by_blanks(capsys):
    train(
        "--tokens", "word", "--embedding", "8", "--order", "random", "--prefix", "the lazy", "--layers", "2", epochs=2
    )
    words = capsys.readouterr().out.splitlines()[-1].split(" ")
    assert words[:2] == ["the", "lazy"]
    assert len(words) == 52
    assert set(words) <= {"<unk>", *["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"]}
    main(["generate", "--prefix", "lazy unheard-of", "--count", "2"])
    assert capsys.readouterr().out.startswith("lazy <unk> ")


def test_the_default_text_without_a_network(capsys):
    main(["train", *SMALL, "--epochs", "1", "--max-tokens", "300"])
    assert "Python's own documentation (pydoc_data.topics), for want of The Time Machine (" in capsys.readouterr().out


def finals(path="language.pt"):
    found = checkpoints.load(Path(path))
    return [point.perplexity for point in found.curve], found.weights


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(capsys):
    train("--checkpoint", "whole.pt", epochs=6)
    train(epochs=2)
    train(epochs=6)
    assert "language.pt: goes on after epoch 2" in capsys.readouterr().out
    assert_same(finals(), finals("whole.pt"))
    before = Path("language.pt").read_bytes()
    train(epochs=4)  # done already
    assert Path("language.pt").read_bytes() == before


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])


def test_a_killed_run_loses_no_epoch():
    options = ["train", "--text", "text.txt", *SMALL, "--epochs", "100000"]
    process = run(*options)
    try:
        seen = 0
        until = time.monotonic() + 60
        while seen < 5 and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
            if Path("language.pt").exists():
                seen = len(checkpoints.load(Path("language.pt")).curve)  # readable whenever one looks
    finally:
        process.kill()
        _, said = process.communicate()
    assert seen >= 5, said
    done = len(finals()[0])
    assert done >= seen
    train(epochs=done + 2)
    train("--checkpoint", "whole.pt", epochs=done + 2)
    assert_same(finals(), finals("whole.pt"))
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["language.pt", "text.txt", "whole.pt"]


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
    assert not Path("language.pt.part").exists()


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "missing.txt"], "No such file or directory: 'missing.txt'"),
        (["--text", "empty.txt"], "text must have letters. Got none in empty.txt."),
        (["--text", "binary.txt"], "text must be in UTF-8. Got other bytes at 1 of binary.txt."),
        (["--text", "."], "Is a directory"),
        (["--text", "time-machine"], "The Time Machine must be at https:"),
        (["--batch", "400"], "text must have at least 2407 tokens for one batch of 400 sequences of 6 steps. Got 860."),
        (["--epochs", "0"], "epochs must be at least 1. Got 0."),
        (["--prefix", ""], "prefix must have at least one token. Got ''."),
        (["--network", "nothing"], "cell must be one of "),
        (["--lr", "1e38", "--clip", "1e38"], "loss and weights must stay finite. Got a loss of "),
        (["--device", "nothing"], "device must be one that torch has here. Got nothing"),
        (["--driver", "nothing"], "driver must be one of auto, "),
        (["--driver", "vendor", "--network", "slstm"], "driver must be one that can run this. "),
        (["--checkpoint", "."], "Is a directory"),
    ],
)
def test_bad_input_ends_in_a_message(capsys, options, message):
    Path("empty.txt").write_text("")
    Path("binary.txt").write_bytes(b"a\xff\x00")
    before = set(Path.cwd().iterdir())
    assert message in refused(capsys, "train", "--text", "text.txt", *SMALL, *options)
    assert set(Path.cwd().iterdir()) == before


def test_what_generate_refuses(capsys):
    assert "No such file or directory: 'language.pt'" in refused(capsys, "generate")
    train(epochs=1)
    capsys.readouterr()
    assert "prefix must have at least one token. Got ''." in refused(capsys, "generate", "--prefix", "")
    assert "count and temperature must not be negative." in refused(capsys, "generate", "--count", "-1")


def test_the_program_without_a_network():
    """As a person starts it."""
    process = run("train", "--text", "time-machine")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("gatefuse.models.language: The Time Machine must be at https:"), said
    assert not out


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_train_what_one_does():
    """torchrun; the checkpoint of two goes on in one."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gatefuse.models.language"]
    environment_free = ["train", "--text", "text.txt", *SMALL, "--epochs", "4", "--checkpoint", "two.pt"]
    process = run(*environment_free, launch=launch)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert out.count("text: text.txt") == 1
    train("--checkpoint", "one.pt", epochs=4)
    one, two = finals("one.pt"), finals("two.pt")
    assert two[0] == pytest.approx(one[0], rel=1e-4)
    for name, value in one[1].items():
        torch.testing.assert_close(two[1][name], value, rtol=1e-3, atol=1e-4)
    train("--checkpoint", "two.pt", epochs=5)
    assert len(finals("two.pt")[0]) == 5

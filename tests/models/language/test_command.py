"""The language model's command line: training, stopping, going on, writing, and all that can be wrong with a call."""

import io
import re
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gatefuse.models.language import checkpoint as checkpoints
from gatefuse.models.language.__main__ import main
from gatefuse.models.language.corpus import URL
from gatefuse.models.language.training import Trainer
from tests.support import language_commands
from tests.support.language_commands import SMALL, finals, refused, run, train

folder = language_commands.folder


def test_trains_and_writes(capsys):
    train("--prefix", "the q")
    said = capsys.readouterr()
    assert said.out.startswith("text: text.txt, 860 chars, vocabulary of 28\n")
    assert re.search(r"epoch 3: perplexity \d+\.\d{3}, \d+ tokens/s\nthe q.{50}\n$", said.out)
    assert "epoch 1 of 3: perplexity" in said.err
    main(["generate", "--prefix", "The 7", "--count", "9"])
    said = capsys.readouterr()
    assert said.err.startswith("gatefuse.models.language: of the prefix, read in lower case: T\n")
    assert re.fullmatch(r"the <unk>[a-z <>]{9,}\n", said.out)
    assert said.err.endswith("read as <unk>, since the vocabulary lacks them: 7\n")
    drawn = []
    for seed in ("0", "0", "1"):
        main(["generate", "--temperature", "1", "--seed", seed])
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_is_left_out_of_a_prefix_is_named(capsys):
    left = (
        "gatefuse.models.language: of the prefix, read in lower case: T M\n"
        "gatefuse.models.language: of the prefix, read as <unk>, since the vocabulary lacks them: '\\t' 1 8 9 5 !\n"
    )
    train("--prefix", "The\tTime Machine 1895!", epochs=1)
    assert left in capsys.readouterr().err
    main(["generate", "--prefix", "The\tTime Machine 1895!"])
    assert capsys.readouterr().err == left
    main(["generate", "--prefix", "the quick"])
    assert capsys.readouterr().err == ""


def test_how_much_of_the_text_is_trained_on(capsys):
    train("--max-tokens", "200", "--checkpoint", "part.pt", epochs=1)
    said = capsys.readouterr().out
    assert said.startswith(
        "text: text.txt, the first 200 of 860 chars, vocabulary of 28; --max-tokens -1 trains on all\n"
    )
    train("--max-tokens", "-1", "--checkpoint", "all.pt", epochs=1)
    assert capsys.readouterr().out.startswith("text: text.txt, 860 chars, vocabulary of 28\n")


@pytest.mark.parametrize(
    ("answer", "asked"), [("\n", True), ("y\n", True), ("n\n", False), ("no\n", False), ("", False), (None, True)]
)
def test_the_network_is_asked_after_it_was_said(capsys, monkeypatch, answer, asked):
    """In a terminal a person may say no; a program, whose answer is None here, isn't asked."""
    said = []

    def urlopen(url, timeout):
        said.append(capsys.readouterr().err)
        raise OSError("no route to host")

    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: answer is not None)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: answer is not None)
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    main(["train", *SMALL, "--epochs", "1", "--max-tokens", "300"])
    whole = capsys.readouterr()
    before = said[0] if asked else whole.err
    assert before.startswith(f"gatefuse.models.language: asks the network for The Time Machine, about 180 kB, at {URL}")
    assert ("Ask for it? [Y/n]" in before) == (answer is not None)
    assert len(said) == asked
    why = "no route to host" if asked else "the network may not be asked"
    assert f"for want of The Time Machine (The Time Machine must be at {URL}" in whole.out
    assert why in whole.out


def test_a_file_needs_no_network(capsys):
    train(epochs=1)
    assert "network" not in capsys.readouterr().err


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


@pytest.mark.slow
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
        (["--min-freq", "-1"], "min_freq must not be negative. Got -1."),
        (["--min-freq", "999"], "min_freq must leave a token. Got 999, and no char is so frequent in text.txt."),
        (["--seed", "-1"], "seed must be from 0 to 4294967295. Got -1."),
        (["--seed", "99999999999999999999999"], "seed must be from 0 to 4294967295. Got 9999"),
        (["--prefix", ""], "prefix must have at least one token. Got ''."),
        (["--network", "nothing"], "network must be one of "),
        (["--lr", "1e38", "--clip", "1e38"], "loss and weights must stay finite. Got a loss of "),
        (["--device", "nothing"], "device must be one that torch has here. Got nothing"),
        (["--device", "meta"], "device must be one that torch has here. Got meta"),
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


@pytest.mark.parametrize(("option", "name"), [("--network", "transformer"), ("--driver", "fast")])
def test_names_are_refused_before_the_text_is_sought(capsys, option, name):
    said = refused(capsys, "train", "--text", "missing.txt", *SMALL, option, name)
    assert re.search(rf": {option[2:]} must be one of .*\. Got '{name}'\.$", said.strip())


def test_what_generate_refuses(capsys):
    rule = "checkpoint must be a file that train wrote: train a model first, or name another with --checkpoint."
    assert f"{rule} Got language.pt, which isn't there." in refused(capsys, "generate")
    train(epochs=1)
    capsys.readouterr()
    assert "prefix must have at least one token. Got ''." in refused(capsys, "generate", "--prefix", "")
    said = "count and temperature must be finite and not negative. Got "
    assert said + "-1 and 0.0." in refused(capsys, "generate", "--count", "-1")
    assert said + "50 and inf." in refused(capsys, "generate", "--temperature", "inf")
    assert "seed must be from 0 to 4294967295. Got -1." in refused(capsys, "generate", "--seed", "-1")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_who_asks_for_more_memory_than_there_is_hears_so(capsys, monkeypatch, error):
    train(epochs=1)
    before = Path("language.pt").read_bytes()

    def epoch(trainer):
        raise error

    monkeypatch.setattr(Trainer, "epoch", epoch)
    said = refused(capsys, "train", "--text", "text.txt", *SMALL)
    assert "memory must hold the model and a batch; try a lower --hidden or --batch." in said
    assert str(error).partition("\n")[0] in said
    assert Path("language.pt").read_bytes() == before


def test_who_reads_no_further_hears_nothing():
    """As with `| head`."""
    train(epochs=1)
    process = run("generate", "--count", "1000000")
    assert process.stdout.read(20).startswith("time traveller")
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read().splitlines() == []
    process.stderr.close()


def test_the_program_without_a_network():
    """As a person starts it."""
    process = run("train", "--text", "time-machine")
    out, said = process.communicate(timeout=60)
    assert process.returncode == 2
    asked, last = said.splitlines()
    assert asked.startswith("gatefuse.models.language: asks the network for The Time Machine, about 180 kB, at https:")
    assert asked.endswith("timemachine.txt. --text FILE and --text python ask no network.")
    assert last.startswith("gatefuse.models.language: The Time Machine must be at https:"), said
    assert not out


WATCHED = """
import pathlib, runpy
runpy.run_module("gatefuse.models.language", run_name="__main__", alter_sys=True)
threads = [place.read_text() for place in pathlib.Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads
"""


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes_train_what_one_does():
    """torchrun; the checkpoint of two goes on in one. No thread of gloo's is left that could meet Python's end."""
    Path("watched.py").write_text(WATCHED)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "watched.py"]
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

"""The language model's command line as tests call it, in a folder of their own."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest

from gatefuse.models.language import checkpoint as checkpoints
from gatefuse.models.language.__main__ import main
from gatefuse.models.language.corpus import PLACE

ROOT = Path(__file__).resolve().parents[2]
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
    *before, last = said.splitlines()
    assert all("asks the network for The Time Machine" in line for line in before)
    return last


def finals(path="language.pt"):
    found = checkpoints.load(Path(path))
    return [point.perplexity for point in found.curve], found.weights

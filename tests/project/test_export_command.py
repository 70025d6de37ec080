"""python -m gatefuse.export: a saved model as an object file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gatefuse
from gatefuse import LSTM, export
from tests.support.exported import needs

ROOT = Path(__file__).resolve().parents[2]


class Other(nn.Module):
    """No class that is known."""


def test_three_commands_from_a_saved_model_to_numbers(tmp_path):
    needs("gcc")
    torch.save(nn.Sequential(LSTM(4, 8), nn.Dropout(0.5), nn.Linear(8, 1), nn.Sigmoid()), tmp_path / "vad.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in (
        [sys.executable, "-W", "error", "-m", "gatefuse.export", "vad.pt", "vad.o"],
        ["gcc", "vad_check.c", "vad.o", "-o", "vad_check"],
        ["./vad_check"],
    ):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("vad: 12 steps, an error of ")


def test_options(tmp_path, capsys):
    torch.save([gatefuse.Recurrent("peephole_lstm", 4, 8), nn.LSTM(8, 3)], tmp_path / "model.pt")
    options = ["--target", "cortex-m4", "--name", "net", "--weights", "int8"]
    assert export.main([str(tmp_path / "model.pt"), str(tmp_path / "out.o"), *options]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "net.h", "net_check.c", "out.o"]
    said = capsys.readouterr().out
    assert said.startswith("net for cortex-m4: ")
    assert "calls no library" in said
    assert "weights in int8 move its output by " in said


def test_a_model_trained_with_noise(tmp_path):
    cell = gatefuse.zoneout(gatefuse.recurrent_dropout("gru", 0.25), h=0.1)
    torch.save(gatefuse.Recurrent(cell, 4, 8, weight_dropout=0.5), tmp_path / "model.pt")
    loaded = export.load(tmp_path / "model.pt")
    assert (loaded.cell.name, loaded.cell.noise, loaded.cell.key) == (cell.name, cell.noise, cell.key)
    assert export.main([str(tmp_path / "model.pt"), str(tmp_path / "out.o")]) == 0


def test_targets_are_listed(capsys):
    assert export.main(["--targets"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(export.targets())
    assert {"host", "x86-64-v4", "aarch64", "apple-m1", "cortex-m4", "cortex-m7", "riscv64", "wasm32"} <= set(listed)


@pytest.mark.parametrize(
    ("saved", "text"),
    [
        (None, "model must be a file. Got "),
        (b"nothing", "model must be what torch.save(model, path) wrote, of classes that can be exported; "),
        (LSTM(3, 4).state_dict(), "model must be a whole model, as torch.save(model, path) writes it, or a list"),
        (nn.Sequential(Other()), "Other."),
        (nn.Sequential(LSTM(3, 4, bidirectional=True)), "model[0] must run in one direction"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(saved, text, tmp_path, capsys):
    path = tmp_path / "model.pt"
    if isinstance(saved, bytes):
        path.write_bytes(saved)
    elif saved is not None:
        torch.save(saved, path)
    assert export.main([str(path), str(tmp_path / "net.o")]) == 1
    said = capsys.readouterr().err
    assert text in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "net.o").exists()


def test_other_classes_are_read_with_trust_alone(tmp_path):
    torch.save(Other(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="is read with --trust"):
        export.load(tmp_path / "model.pt")
    assert isinstance(export.load(tmp_path / "model.pt", trust=True), Other)


def test_a_script_s_own_classes_are_named_with_the_call_that_takes_them(tmp_path):
    script = "import torch\nclass Net(torch.nn.Module): pass\ntorch.save(Net(), 'model.pt')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    rule = r"of classes that can be imported here; in the script that defines them, call gatefuse\.export_object"
    with pytest.raises(ValueError, match=rf"{rule}.* Got '.*model\.pt': AttributeError: .*Net"):
        export.load(tmp_path / "model.pt", trust=True)


def test_a_file_that_would_run_code_does_not(tmp_path):
    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Runs(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="which can run any code"):
        export.load(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def test_the_module_and_the_function_have_names_of_their_own():
    assert export.__name__ == "gatefuse.export"
    assert callable(gatefuse.export_object)
    assert not hasattr(gatefuse, "object")

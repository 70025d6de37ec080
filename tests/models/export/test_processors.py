"""Objects as programs on the processors that they are for: here, and in emulators where these are installed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gatefuse import LSTM, Recurrent, export_object
from gatefuse.export import targets
from gatefuse.kernels.codegen.llvm.processor import this_processor
from tests.support.exported import MACHINES, run_check
from tests.support.layers import WITHOUT_INPUTS

machines = pytest.mark.parametrize("target", MACHINES)
LEVELS = {"x86-64-v2": "baseline", "x86-64-v3": "avx2", "x86-64-v4": "avx512"}


def holds(tmp_path, target):
    done = run_check(tmp_path, "net", target)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@machines
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", WITHOUT_INPUTS)
def test_every_cell_gives_the_layer_s_output(cell, layers, target, tmp_path):
    torch.manual_seed(0)
    model = [Recurrent(cell, 7, 19, num_layers=layers)]
    export_object(model, tmp_path / "net.o", target)
    holds(tmp_path, target)


@machines
@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
@pytest.mark.parametrize("H", [1, 16, 37])
def test_odd_sizes_and_weights_in_fewer_bits(H, weights, target, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(11, 5), nn.Tanh(), nn.Linear(5, 3), nn.SiLU(), LSTM(3, H, bias=False), nn.ELU(), nn.Linear(H, 2)
    )
    export_object(model, tmp_path / "net.o", target, weights=weights)
    holds(tmp_path, target)


@pytest.mark.parametrize("weights", ["float32", "float16", "int8"])
@pytest.mark.parametrize("target", LEVELS)
def test_levels_of_this_machine(target, weights, tmp_path):
    try:
        this_processor(LEVELS[target])
    except RuntimeError as why:
        pytest.skip(str(why))
    if not this_processor().triple.startswith("x86_64"):
        pytest.skip("this machine is no x86-64")
    model = [Recurrent("slstm", 9, 33, num_layers=2), nn.Linear(33, 4)]
    export_object(model, tmp_path / "net.o", target, weights=weights)
    holds(tmp_path, "host")


def test_a_check_program_says_where_numbers_are_wrong(tmp_path):
    export_object([Recurrent("gru", 3, 8)], tmp_path / "net.o")
    program = tmp_path / "net_check.c"
    text = program.read_text()
    first = text.index("{", text.index("expected[")) + 1
    program.write_text(f"{text[:first]}{text[first:].replace('e-0', 'e-1', 1)}")
    assert run_check(tmp_path, "net", "host").returncode == 1
    nothing = "static const float nothing[NET_INPUTS] = {(float)(1e300 * 1e300) * 0.0f};"
    text = text.replace("x[k * NET_INPUTS]", "nothing[0]")
    program.write_text(text.replace("static const float allowed", f"{nothing}\n\nstatic const float allowed"))
    assert run_check(tmp_path, "net", "host").returncode == 1


def test_every_target_is_an_object_here(tmp_path):
    magic = {"apple-m1": b"\xcf\xfa\xed\xfe", "wasm32": b"\0asm", "windows-x86-64": b"\x64\x86"}
    for target in targets():
        export_object([LSTM(3, 4)], tmp_path / "net.o", target)
        assert (tmp_path / "net.o").read_bytes().startswith(magic.get(target, b"\x7fELF")), target

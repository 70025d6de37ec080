"""Object files for processors that aren't at hand: what they hold, what they need, and that readers of others agree."""

from __future__ import annotations

import struct
import subprocess

import pytest
import torch

import gatefuse
from gatefuse import LSTM, Recurrent, export_object
from gatefuse.export import targets
from gatefuse.kernels.codegen.llvm.objects.stored import STORED
from tests.support.exported import FLAGS, needs, run_check
from tests.support.layers import WITHOUT_INPUTS

ELF = [name for name in targets() if name not in ("apple-m1", "wasm32", "windows-x86-64")]


@gatefuse.cell(gates="a")
def wave(x, R, h):
    return torch.sin(x.a + R.a(h)) * torch.erf(h + x.a)


def undefined(path, target):
    """The names that an object needs, by another reader than ours; of wasm32 a linker says them."""
    data = path.read_bytes()
    if target == "apple-m1":
        return set(_of_mach_o(data))
    if target == "windows-x86-64":
        needs("nm")
        said = subprocess.run(["nm", "-u", path], capture_output=True, text=True, check=True).stdout
        return {line.split()[-1] for line in said.splitlines()}
    needs("readelf")
    said = subprocess.run(["readelf", "-sW", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in said.splitlines() if " UND " in line]
    return {row[7] for row in rows if len(row) > 7}


def _of_mach_o(data):
    place = 32
    for _ in range(struct.unpack_from("<I", data, 16)[0]):
        kind, size = struct.unpack_from("<II", data, place)
        if kind == 2:
            symbols, count, names, _ = struct.unpack_from("<IIII", data, place + 8)
            for k in range(count):
                name, flags = struct.unpack_from("<IB", data, symbols + 16 * k)
                if flags & 0x0E == 0:
                    yield data[names + name : data.index(b"\0", names + name)].decode().removeprefix("_")
        place += size


@pytest.mark.slow
@pytest.mark.parametrize("target", [t for t in targets() if t != "wasm32"])
def test_shipped_cells_need_nothing(target, tmp_path):
    for weights in STORED:
        model = [Recurrent(cell, 6, 6) for cell in WITHOUT_INPUTS]
        made = export_object(model, tmp_path / "net.o", target, weights=weights)
        assert made.needs == ()
        assert undefined(tmp_path / "net.o", target) == set()
        assert "Calls no library." in (tmp_path / "net.h").read_text()


@pytest.mark.parametrize("target", [t for t in targets() if t != "wasm32"])
def test_a_header_says_what_is_needed(target, tmp_path):
    made = export_object(Recurrent(wave, 3, 5), tmp_path / "net.o", target)
    assert made.needs == ("erff", "sinf")
    assert undefined(tmp_path / "net.o", target) == {"erff", "sinf"}
    assert "Calls erff, sinf, which another library must bring." in (tmp_path / "net.h").read_text()


@pytest.mark.parametrize("target", ["host", "aarch64", "cortex-m7"])
def test_what_is_needed_is_called_as_it_must_be(target, tmp_path):
    """Floats are passed in registers where the target's convention says so."""
    export_object(Recurrent(wave, 3, 5), tmp_path / "net.o", target)
    done = run_check(tmp_path, "net", target)
    assert done.returncode == 0, done.stdout


def test_soft_float_is_said_and_runs(tmp_path):
    made = export_object(LSTM(3, 5), tmp_path / "net.o", "thumbv6m-none-eabi", cpu="cortex-m0")
    assert {"__aeabi_fadd", "__aeabi_fmul", "__aeabi_fdiv"} <= set(made.needs)
    assert undefined(tmp_path / "net.o", "thumb") == set(made.needs)
    done = run_check(tmp_path, "net", "cortex-m0")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m7"])
@pytest.mark.parametrize("abi", ["hard", "softfp"])
def test_objects_without_needs_link_with_either_convention(abi, target, tmp_path):
    """As no function takes a float by value, firmware of both kinds takes them."""
    export_object([Recurrent("slstm", 3, 5)], tmp_path / "net.o", target)
    needs("arm-none-eabi-gcc")
    fpu = {"cortex-m4": "fpv4-sp-d16", "cortex-m7": "fpv5-d16"}[target]
    options = [f"-mcpu={target}", "-mthumb", f"-mfloat-abi={abi}", f"-mfpu={fpu}", "--specs=nosys.specs"]
    link = ["arm-none-eabi-gcc", *FLAGS, *options, "net_check.c", "net.o", "-o", "net"]
    done = subprocess.run(link, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", targets())
def test_code_is_small_and_weights_are_constants(target, tmp_path):
    """An LSTM of 128 units: at most 16 KB of code, of which nothing can be written to."""
    made = export_object(LSTM(128, 128), tmp_path / "net.o", target)
    assert 1000 < made.code_bytes <= 16384
    assert made.weight_bytes == 4 * (2 * 4 * 128 * 128 + 4 * 128)
    assert (tmp_path / "net.o").stat().st_size >= made.code_bytes + made.weight_bytes
    if target in ELF:
        needs("readelf")
        said = subprocess.run(["readelf", "-SW", tmp_path / "net.o"], capture_output=True, text=True, check=True).stdout
        rows = [line.split("]", 1)[1].split() for line in said.splitlines() if "PROGBITS" in line or "NOBITS" in line]
        sizes = {row[0]: (int(row[4], 16), row[6]) for row in rows}
        assert sum(size for size, flags in sizes.values() if flags == "WA") == 0
        assert sum(size for size, flags in sizes.values() if "A" in flags) <= made.code_bytes + made.weight_bytes
        assert sizes[".rodata"][0] >= made.weight_bytes


@pytest.mark.parametrize(
    ("triple", "cpu", "wide"),
    [
        ("x86_64-apple-macosx11", "x86-64-v3", 8),
        ("aarch64-linux-android21", "cortex-a55", 4),
        ("riscv32-unknown-elf", "generic-rv32", 1),
    ],
)
def test_triples_and_processors(triple, cpu, wide, tmp_path):
    made = export_object(LSTM(3, 1), tmp_path / "net.o", triple, cpu=cpu)
    assert f"float h_0[{wide}]" in (tmp_path / "net.h").read_text()
    assert made.target == triple


@pytest.mark.parametrize("compiler", [["gcc", "-xc", "-std=c99"], ["g++", "-xc++", "-std=c++98"]], ids=" ".join)
def test_headers_are_for_c_and_for_cpp(compiler, tmp_path):
    needs(compiler[0])
    export_object([torch.nn.Embedding(4, 3), LSTM(3, 5)], tmp_path / "net.o")
    (tmp_path / "use.c").write_text('#include "net.h"\n#include "net.h"\nnet_state state;\n')
    command = [*compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "use.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

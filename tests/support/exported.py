"""Objects for other machines and this one, made into programs and run: with which compiler, linker and emulator."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from gatefuse import export_object

FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")

# Ends a program by a call of Linux's, where the compiler's library is for no system at all; nothing is printed.
_BARE = """\
int main(void);
int printf(const char *text, ...);
void _start(void);
int printf(const char *text, ...) { (void)text; return 0; }
void _start(void)
{
    int code = main();
    __asm__ volatile("mov r0, %0\\n mov r7, #1\\n svc 0" : : "r"(code) : "r0");
}
"""
# Reads vad_check.c's arrays, runs the module as a page in a browser would, and ends with 0 where it gives what it must.
_PAGE = Path(__file__).with_name("wasm_check.js")


class Machine(NamedTuple):
    """How programs for a target are made and run."""

    compiler: tuple[str, ...]
    emulator: tuple[str, ...] = ()
    bare: bool = False


def needs(*tools: str) -> None:
    """Skip a test where a tool is not installed."""
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"this needs {', '.join(missing)}, which is not installed")


def _cortex(cpu: str, floats: str) -> Machine:
    # the emulator runs programs for Linux, on a processor with an M's instructions and others
    options = f"-O1 -fomit-frame-pointer -mcpu={cpu} -mthumb {floats} -nostartfiles"
    compiler = "arm-none-eabi-gcc", *options.split(), "--specs=nosys.specs"
    return Machine(compiler, ("qemu-arm", "-cpu", "max"), True)


MACHINES = {
    "host": Machine(("gcc",)),
    "aarch64": Machine(("aarch64-linux-gnu-gcc",), ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")),
    "riscv64": Machine(("riscv64-linux-gnu-gcc",), ("qemu-riscv64", "-L", "/usr/riscv64-linux-gnu")),
    "cortex-m4": _cortex("cortex-m4", "-mfloat-abi=hard -mfpu=fpv4-sp-d16"),
    "cortex-m7": _cortex("cortex-m7", "-mfloat-abi=hard -mfpu=fpv5-d16"),
    "wasm32": Machine(("wasm-ld",), ("node",)),
}
# Known by a triple alone.
_OTHERS = {"cortex-m0": _cortex("cortex-m0", "-mfloat-abi=soft")}


def run_check(folder: Path, name: str, target: str) -> subprocess.CompletedProcess[str]:
    """Make the check program beside <folder>/<name>.o and run it."""
    machine = (MACHINES | _OTHERS)[target]
    needs(machine.compiler[0], *machine.emulator[:1])
    if target == "wasm32":
        functions = [f"--export={name}_{function}" for function in ("reset", "step", "run")]
        link = ["wasm-ld", "--no-entry", *functions, "--export=__heap_base", "-o", f"{name}.wasm", f"{name}.o"]
        subprocess.run(link, cwd=folder, check=True)
        return _ran(["node", str(_PAGE), name], folder)
    sources = [f"{name}_check.c"]
    if machine.bare:
        (folder / "start.c").write_text(_BARE)
        sources.append("start.c")
    build = [*machine.compiler, *FLAGS, *sources, f"{name}.o", "-o", f"{name}_check", "-lm"]
    done = _ran(build, folder)
    assert done.returncode == 0, done.stderr
    return _ran([*machine.emulator, f"./{name}_check"], folder)


def _ran(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


class Library:
    """A model as a shared library in this process, with a state of its own."""

    def __init__(self, model, folder: Path, **options):
        needs("gcc")
        self.exported = export_object(model, folder / "net.o", shared=True, **options)
        # a loader knows libraries by name, and tests make many
        unique = folder / f"net{os.urandom(4).hex()}.so"
        self.exported.files[-1].replace(unique)
        self._library = ctypes.CDLL(str(unique))
        self._state = torch.full((self.exported.state_bytes // 4,), float("nan"))
        self.reset()

    def reset(self) -> None:
        self._call("reset")

    def step(self, x, y) -> int:
        return self._call("step", x, y)

    def run(self, x, y) -> int:
        function = self._library.net_run
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
        return function(self._state.data_ptr(), len(x), x.data_ptr(), y.data_ptr())

    def _call(self, name: str, *tensors) -> int:
        function = getattr(self._library, f"net_{name}")
        return function(*[ctypes.c_void_p(t.data_ptr()) for t in (self._state, *tensors)])

"""Processors that objects are made for, by name: what LLVM must know of each, and how wide its vectors are."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from gatefuse.kernels.codegen.llvm.processor import Processor, this_processor

HOST = "host"


class Target(NamedTuple):
    """Where an object shall run.

    Attributes:
        name: one of ``targets()``, or the triple.
        what: the machines that are meant, in words.
        processor: as LLVM knows it.
        movable: whether code and data may be loaded at any address, as shared libraries are.
        abi: the calling convention, where the triple doesn't say it.
    """

    name: str
    what: str
    processor: Processor
    movable: bool = True
    abi: str = ""


# RISC-V as Linux distributions take it, without vectors; Arm's microcontrollers have none either.
_LINUX_X86, _LINUX_ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
_RISCV, _CORTEX = "+m,+a,+f,+d,+c", "thumbv7em-none-eabihf"
_TARGETS = (
    Target("x86-64-v2", "x86-64 from about 2009 on, Linux", Processor(_LINUX_X86, "x86-64-v2", "", 16, 16, False)),
    Target("x86-64-v3", "x86-64 with AVX2, Linux", Processor(_LINUX_X86, "x86-64-v3", "", 32, 16, True)),
    Target("x86-64-v4", "x86-64 with AVX-512, Linux", Processor(_LINUX_X86, "x86-64-v4", "", 64, 32, True)),
    Target("aarch64", "64-bit Arm, Linux and Android", Processor(_LINUX_ARM, "generic", "", 16, 32, True)),
    Target("apple-m1", "Macs from M1 on", Processor("arm64-apple-macosx11.0.0", "apple-m1", "", 16, 32, True)),
    Target("cortex-m4", "Cortex-M4F, hard float", Processor(_CORTEX, "cortex-m4", "", 4, 32, True, 32), False),
    Target("cortex-m7", "Cortex-M7, hard float", Processor(_CORTEX, "cortex-m7", "", 4, 32, True, 32), False),
    Target(
        "riscv64",
        "64-bit RISC-V with F and D, Linux",
        Processor("riscv64-unknown-linux-gnu", "generic-rv64", _RISCV, 4, 32, True),
        abi="lp64d",
    ),
    Target(
        "wasm32",
        "WebAssembly with SIMD: browsers from 2021 on",
        Processor("wasm32-unknown-unknown", "mvp", "+simd128", 16, 16, False, 32),
        False,
    ),
    Target("windows-x86-64", "x86-64, Windows", Processor("x86_64-pc-windows-gnu", "x86-64-v2", "", 16, 16, False)),
)
_BY_NAME = {target.name: target for target in _TARGETS}

# Of a triple's first part: bytes of a vector, registers, whether products and sums are fused, bits of an address.
_FAMILIES = {
    "x86_64": (16, 16, False, 64),
    "aarch64": (16, 32, True, 64),
    "arm64": (16, 32, True, 64),
    "thumb": (4, 16, False, 32),
    "arm": (4, 16, False, 32),
    "riscv64": (4, 32, False, 64),
    "riscv32": (4, 32, False, 32),
    "wasm32": (4, 16, False, 32),
}
# x86-64's levels as targets of their own, so that a triple for another system has their vectors
_LEVELS = {target.processor.cpu: target.processor for target in _TARGETS[:3]}
_BARE = ("none", "wasm32")  # parts of triples of systems that load nothing at another address


def targets() -> dict[str, str]:
    """The names that ``export_object`` knows, and the machines that each is for."""
    return {HOST: "this machine", **{target.name: target.what for target in _TARGETS}}


def find_target(name: str, cpu: str = "") -> Target:
    """The target of that name, or of that triple of LLVM's and that CPU.

    Raises:
        TypeError: the name or the CPU is no text.
        ValueError: there is no such name, triple or CPU; or a CPU is given beside a name.
        ModuleNotFoundError: llvmlite is not installed.
    """
    if not isinstance(name, str) or not isinstance(cpu, str):
        raise TypeError(f"target and cpu must be text. Got {type(name).__name__} and {type(cpu).__name__}.")
    if name in _BY_NAME or name == HOST:
        if cpu:
            raise ValueError(f"cpu must be given with a triple alone. Got {cpu!r} with the target {name}.")
        if name == HOST:
            return Target(HOST, "this machine", this_processor())
        return _BY_NAME[name]
    family = next((family for family in _FAMILIES if name.startswith(family)), "")
    if "-" not in name or not family:
        raise ValueError(
            f"target must be one of {', '.join(targets())}, or a triple of {', '.join(_FAMILIES)}. Got {name!r}."
        )
    if not cpu:
        raise ValueError(f"cpu must be given with a triple, such as generic. Got the triple {name} alone.")
    return Target(name, cpu, _processor(family, name, cpu), not any(part in name.split("-") for part in _BARE))


def _processor(family: str, triple: str, cpu: str) -> Processor:
    if not _known(triple, cpu):
        raise ValueError(f"cpu must be one that LLVM knows for {triple}. Got {cpu!r}.")
    if family == "x86_64" and cpu in _LEVELS:
        return _LEVELS[cpu]._replace(triple=triple)
    size, registers, fused, bits = _FAMILIES[family]
    if triple.endswith("-eabi"):  # by whose names LLVM calls the compiler's library where it takes the system for Linux
        triple = f"{triple.split('-')[0]}-unknown-linux-gnueabi"
    if triple.endswith("eabihf") and cpu.startswith("cortex-"):  # with a unit for floats, as the convention needs
        registers, fused = 32, True
    return Processor(triple, cpu, "", size, registers, fused, bits)


_ASK = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from llvmlite import binding as llvm; "
    "llvm.initialize_all_targets(); llvm.Target.from_triple(sys.argv[2]).create_target_machine(cpu=sys.argv[3])"
)


def _known(triple: str, cpu: str) -> bool:
    """Whether LLVM knows the CPU; of one that it doesn't it speaks to stderr alone, so that a process is asked.

    Raises:
        ValueError: LLVM doesn't know the triple.
        RuntimeError: it can't be asked.
    """
    command = [sys.executable, "-c", _ASK, json.dumps(sys.path), triple, cpu]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No available targets" in done.stderr:
        raise ValueError(f"target must be a triple that LLVM knows. Got {triple!r}.")
    if done.returncode:
        raise RuntimeError(f"LLVM must say whether it knows the CPU {cpu}. It said: {done.stderr.strip()[-300:]}")
    return "not a recognized processor" not in done.stderr

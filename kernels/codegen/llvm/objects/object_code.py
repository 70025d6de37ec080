"""A module of LLVM as an object file for a target, which may be another processor than the one at hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from llvmlite import binding as llvm
from llvmlite import ir

from gatefuse.kernels.codegen.llvm.machine_code import LLVM
from gatefuse.kernels.codegen.llvm.objects import elf
from gatefuse.kernels.codegen.llvm.objects.targets import Target
from gatefuse.kernels.codegen.llvm.routines import Module

# Loops that copy or clear memory stay loops, where LLVM would call the C library's functions for it.
FREESTANDING = ('"no-builtins"',)
_WASM = b"\0asm"
# Sections that a program doesn't load, but for the code's sizes.
_NOT_LOADED = (
    *(".note", ".comment", ".debug", ".symtab", ".strtab", ".shstrtab", ".rel", ".llvm", ".drectve"),
    *(".ARM.attributes", ".riscv.attributes"),
)


class ObjectCode(NamedTuple):
    """An object file.

    Attributes:
        data: its bytes.
        loaded: how many of them a program loads: code and constants.
        needs: names of functions that it calls and doesn't hold.
    """

    data: bytes
    loaded: int
    needs: tuple[str, ...]


@cache
def _ready() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def object_code(module: Module, target: Target) -> ObjectCode:
    """The object file of a module that was printed for the target.

    Raises:
        RuntimeError: LLVM refuses the module.
    """
    with LLVM:
        _ready()
        p = target.processor
        options = {"reloc": "pic" if target.movable else "static", "abiname": target.abi}
        # addresses of RISC-V's code for a system are found from where it runs, as those of its data
        options["codemodel"] = "medium" if p.triple.startswith("riscv") else "default"
        machine = llvm.Target.from_triple(p.triple).create_target_machine(p.cpu, p.features, 2, **options)
        module.data_layout = str(machine.target_data)
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        # the text says which vectors are meant
        tuning = llvm.create_pipeline_tuning_options(speed_level=1)
        tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
        passes = llvm.create_pass_builder(machine, tuning)
        passes.getModulePassManager().run(parsed, passes)
        data = machine.emit_object(parsed)
        needs = elf.undefined(data) if elf.is_elf(data) else _declared(module)
        if elf.is_elf(data) and (not needs or p.triple.endswith("hf")):
            data = elf.with_float_arguments(data, elf.BY_REGISTER if needs else elf.BY_NEITHER)
        return ObjectCode(data, sum(size for _, size in _sections(data)), tuple(sorted(needs)))


def _sections(data: bytes) -> Iterator[tuple[str, int]]:
    """What a program loads of an object: names and sizes."""
    for section in llvm.ObjectFileRef.from_data(data).sections():
        name = (section.name() or b"").decode("latin-1")  # of some formats it runs on into what follows
        if data.startswith(_WASM):
            if name in ("CODE", "DATA"):
                yield name, section.size()
        elif not name.startswith(_NOT_LOADED) and name:
            yield name, section.size()


def _declared(module: ir.Module) -> set[str]:
    """Functions that the text calls and doesn't hold."""
    return {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}

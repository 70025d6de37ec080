"""A module of LLVM as machine code in this process."""

from __future__ import annotations

from functools import cache
from threading import RLock

from llvmlite import binding as llvm
from llvmlite import ir

from gatefuse.kernels.codegen.llvm.processor import Processor

LLVM = RLock()  # held by the one thread that asks LLVM, which a signal's handler may lead here again


class MachineCode:
    """A module's functions, for as long as this object lives.

    Raises:
        RuntimeError: LLVM refuses the module.
    """

    def __init__(self, module: ir.Module, processor: Processor):
        with LLVM:
            self._engine = _compiled(str(module), processor)

    def address(self, name: str) -> int:
        """Of a function."""
        return int(self._engine.get_function_address(name))


@cache
def _ready() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _compiled(text: str, processor: Processor) -> llvm.ExecutionEngine:
    _ready()
    target = llvm.Target.from_triple(processor.triple)
    machine = target.create_target_machine(cpu=processor.cpu, features=processor.features, opt=3)
    module = llvm.parse_assembly(text)
    # the text says which vectors are meant
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = options.slp_vectorization = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine

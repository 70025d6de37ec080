"""Functions that many loops call, such as products: compiled once in a process, and known to later modules by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock

from llvmlite import binding as llvm
from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import I64, Code
from gatefuse.kernels.codegen.llvm.machine_code import MachineCode
from gatefuse.kernels.codegen.llvm.processor import Processor
from gatefuse.kernels.codegen.llvm.vectors import Float

_lock = RLock()
_compiled: dict[str, MachineCode] = {}


class Module(ir.Module):
    """A module for a processor.

    Args:
        whole: whether it holds all that it calls, as an object file must; else routines are in modules of their own.
        attributes: of all its functions.

    Attributes:
        convention: how other libraries' functions are called, where LLVM must be told.
    """

    def __init__(self, name: str, processor: Processor, whole: bool = False, attributes: Sequence[str] = ()):
        super().__init__(name)
        self.triple, self.processor, self.whole = processor.triple, processor, whole
        self.word, self.attributes = ir.IntType(processor.bits), tuple(attributes)
        self.convention = "arm_aapcs_vfpcc" if processor.triple.endswith("eabihf") else ""


def routine(
    module: Module, kind: Float, name: str, arguments: Sequence[str], define: Callable[[Code], None]
) -> ir.Function:
    """The function of that name, of numbers, for a module's use; ``define`` writes it where there is none yet."""
    if module.whole:
        if name not in module.globals:
            _written(module, name, arguments, define, public=False)
        return module.globals[name]
    processor = module.processor
    known = f"gatefuse.{name}.{kind.suffix}.{processor.cpu}.{processor.bytes}"
    if known in module.globals:
        return module.globals[known]
    with _lock:
        if known not in _compiled:
            own = Module(name, processor, whole=True)
            _written(own, known, arguments, define, public=True)
            _compiled[known] = code = MachineCode(own, processor)
            llvm.add_symbol(known, code.address(known))
    return ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(arguments)), known)


def _written(module: Module, name: str, arguments: Sequence[str], define: Callable[[Code], None], public: bool) -> None:
    code = Code(module, name, [(each, I64) for each in arguments], None, "noinline", public=public)
    define(code)
    code.finish()

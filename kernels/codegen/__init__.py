"""A cell's program as code: in Triton, in LLVM, in torch's operators, in TorchScript."""

from __future__ import annotations

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import find_cell


def source(cell: str | Cell, language: str = "triton") -> str:
    """The generated code of a cell, for reading.

    Args:
        cell: a cell or the name of one.
        language: "triton" or "llvm" for the device functions, "torchscript" for the loop.

    Returns:
        The text of a module: in Triton and in LLVM the pointwise parts of a step and of its gradient, in LLVM in
        float32 and for the processor at hand; in TorchScript the loops.

    Raises:
        TypeError: neither a name nor a cell.
        ValueError: unknown cell or language.
        TranslationError: the equations can't be translated; says which operator, or which rule.
        ModuleNotFoundError: llvmlite, which writes LLVM, is not installed.
    """
    program = find_cell(cell).program
    if language == "triton":
        from gatefuse.kernels.codegen.device_functions import triton_source

        return triton_source(program)
    if language == "llvm":
        from gatefuse.kernels.codegen.llvm.parts import llvm_source

        return llvm_source(program)
    if language == "torchscript":
        from gatefuse.kernels.codegen.torchscript import torchscript_source

        return torchscript_source(program)
    raise ValueError(f"language must be triton, llvm or torchscript. Got {language!r}.")

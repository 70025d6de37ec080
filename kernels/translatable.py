"""Whether a cell's equations can be made into kernels, also while torch.compile traces; imports the compiler."""

from __future__ import annotations

import torch

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.operators import TranslationError


@torch.compiler.assume_constant_result
def untranslatable(key: str) -> str:
    """Why a cell's equations can't be made into kernels, by its key; torch.compile calls this while it traces."""
    try:
        _ = Cell.by_key(key).program
    except TranslationError as error:
        return str(error)
    return ""

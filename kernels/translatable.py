"""Whether a cell's equations can be made into kernels, also while torch.compile traces."""

from __future__ import annotations

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.constant import constant
from gatefuse.kernels.operators import TranslationError


@constant
def untranslatable(key: str) -> str:
    """Why a cell's equations can't be made into kernels, by its key; torch.compile calls this while it traces."""
    try:
        _ = Cell.by_key(key).program
    except TranslationError as error:
        return str(error)
    return ""

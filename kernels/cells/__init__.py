"""The cells that gatefuse ships, found by name. One file a cell; a new one is added to _MODULES."""

from __future__ import annotations

from importlib import import_module

from gatefuse.kernels.cell import Cell

_MODULES = {
    "elman": "elman",
    "elman_relu": "elman",
    "lstm": "lstm",
    "gru": "gru",
    "gru_reset_first": "gru_reset_first",
    "peephole_lstm": "peephole_lstm",
    "article_peephole_lstm": "article_peephole_lstm",
    "slstm": "slstm",
    "cifg_lstm": "cifg_lstm",
    "minimal_gated_unit": "minimal_gated_unit",
    "li_gru": "li_gru",
    "ind_rnn": "ind_rnn",
    "min_gru": "min_gru",
    "min_lstm": "min_lstm",
    "sru": "sru",
    "augru": "augru",
    "gru_d": "gru_d",
    "cfc": "cfc",
    "layer_norm_lstm": "layer_norm_lstm",
    "layer_norm_gru": "layer_norm_gru",
}


def cell_names() -> tuple[str, ...]:
    """Names of the cells that gatefuse ships."""
    return tuple(_MODULES)


def find_cell(cell: str | Cell) -> Cell:
    """The cell of that name, or the cell itself.

    Args:
        cell: one of ``cell_names()``, or what ``gatefuse.cell`` made.

    Raises:
        ValueError: no shipped cell has that name.
        TypeError: neither a name nor a cell.
    """
    if isinstance(cell, Cell):
        return cell
    if not isinstance(cell, str):
        found = "; a layer's is layer.cell" if isinstance(getattr(cell, "cell", None), Cell) else ""
        raise TypeError(f"cell must be a name or made by gatefuse.cell{found}. Got {type(cell).__name__}.")
    if cell not in _MODULES:
        raise ValueError(f"cell must be one of {', '.join(_MODULES)}, or made by gatefuse.cell. Got {cell!r}.")
    return getattr(import_module(f"gatefuse.kernels.cells.{_MODULES[cell]}"), cell)

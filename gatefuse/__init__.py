"""gatefuse: a recurrent cell is its equations, written once in PyTorch; the fast paths follow from them."""

from gatefuse._version import __version__
from gatefuse.kernels.cell import Cell, cell
from gatefuse.kernels.cells import cell_names, find_cell

__all__ = ["Cell", "__version__", "cell", "cell_names", "find_cell"]

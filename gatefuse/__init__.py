"""gatefuse: a recurrent cell is its equations, written once in PyTorch; the fast paths follow from them."""

from gatefuse import _links  # noqa: F401  first, as it says what to do where the folders are missing
from gatefuse._version import __version__
from gatefuse.kernels.cell import Cell, cell
from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.codegen import source
from gatefuse.kernels.plan import Plan
from gatefuse.models import flop_counts
from gatefuse.models.accelerate import accelerate, restore
from gatefuse.models.recurrent import Recurrent
from gatefuse.models.torchlike import GRU, LSTM, RNN
from gatefuse.models.torchlike_cells import GRUCell, LSTMCell, RNNCell
from gatefuse.models.torchscript import scripted
from gatefuse.models.warmup import warmup

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "Plan",
    "RNNCell",
    "Recurrent",
    "__version__",
    "accelerate",
    "cell",
    "cell_names",
    "find_cell",
    "restore",
    "scripted",
    "source",
    "warmup",
]

# With it come the operators, which programs that are loaded later may hold.
flop_counts.offer()

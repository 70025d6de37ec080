"""gatefuse: a recurrent cell is its equations, written once in PyTorch; the fast paths follow from them."""

from gatefuse import (
    _links,  # noqa: F401  first, as it says what to do where the folders are missing
    _moved,
)
from gatefuse._version import __version__
from gatefuse.kernels.cell import Cell, cell
from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.codegen import source
from gatefuse.kernels.equations.normalization import layer_norm
from gatefuse.kernels.equations.operators import operator_names
from gatefuse.kernels.noise.recurrent_dropout import recurrent_dropout
from gatefuse.kernels.noise.zoneout import zoneout
from gatefuse.kernels.plan import Plan
from gatefuse.models.accelerate import accelerate, restore
from gatefuse.models.execution import flop_counts
from gatefuse.models.export.object import export_object
from gatefuse.models.layers.gru_d import GRUD
from gatefuse.models.layers.recurrent import Recurrent
from gatefuse.models.layers.rnn import GRU, LSTM, RNN
from gatefuse.models.layers.rnn_cells import GRUCell, LSTMCell, RNNCell
from gatefuse.models.layers.stepper import Stepper
from gatefuse.models.layers.warmup import warmup
from gatefuse.models.torchscript.model import scripted

__all__ = [
    "GRU",
    "GRUD",
    "LSTM",
    "RNN",
    "Cell",
    "GRUCell",
    "LSTMCell",
    "Plan",
    "RNNCell",
    "Recurrent",
    "Stepper",
    "__version__",
    "accelerate",
    "cell",
    "cell_names",
    "export_object",
    "find_cell",
    "layer_norm",
    "operator_names",
    "recurrent_dropout",
    "restore",
    "scripted",
    "source",
    "warmup",
    "zoneout",
]

_moved.offer()
# With it come the operators, which programs that are loaded later may hold.
flop_counts.offer()

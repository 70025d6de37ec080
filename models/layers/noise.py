"""What a layer draws in training, beside dropout between layers: the noise of its cell, and dropped recurrent weights.

Source of the latter: S. Merity et al., Regularizing and Optimizing LSTM Language Models (2018, arXiv:1708.02182), which
drop weights as L. Wan et al., Regularization of Neural Networks using DropConnect (2013).
"""

from __future__ import annotations

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.noise.noisy_cell import draw
from gatefuse.models.execution.calls import Call
from gatefuse.models.execution.sizes import recurrent_weights
from gatefuse.models.layers.units import Units


def drawn(cell: Cell, call: Call, weight_dropout: float, units: Units | None = None) -> Call:
    """The call in training: with noise for each layer and direction, and the recurrent weights of each less those that
    are dropped, the same in all steps."""
    rows, _, H = call.states[0].shape
    noise = [
        each.draw(rows, call.T, call.B, H if units is None else units.of(each.name), call.x) for each in cell.noise
    ]
    weights, each = list(call.weights), len(call.weights) // rows
    if weight_dropout:
        for k in [row * each + 1 + n for row in range(rows) for n in range(recurrent_weights(units))]:
            weight = weights[k]
            weights[k] = weight * draw(weight.shape, 1 - weight_dropout, 1 / (1 - weight_dropout), weight)
    return call._replace(inputs=(*call.inputs, *noise), weights=weights)

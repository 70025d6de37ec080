"""What torch.compile and torch.export find in place of a time loop: one operator for all layers and directions.

A loop, torch's own too, would be unrolled for the number of steps of the example. Drivers with kernels have operators
of their own (kernels/loops/operator.py), which torch.compile gets instead. A program that holds an operator runs where
gatefuse is imported and the cell is defined.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.facts import file_key
from gatefuse.kernels.loops.registry import LOOPS, ON_CPU
from gatefuse.kernels.task import Form
from gatefuse.models.execution.beside import joined
from gatefuse.models.execution.calls import Call, Results
from gatefuse.models.execution.context import exporting
from gatefuse.models.execution.operators import layers
from gatefuse.models.onnx import check_export


def stands_for(name: str, device: torch.device) -> bool:
    """Whether, while torch traces, an operator stands for all layers by that driver."""
    # who will run an exported program isn't known
    return exporting() or name not in LOOPS or (name in ON_CPU and device.type == "cpu")


def run(cell: Cell, by: str, call: Call, form: Form) -> Results:
    """The layers as operators: one for all, or where dropout acts between them, one for each.

    Args:
        by: a driver's name, or "auto".
        call: with x of shape (T, B, I), in the dtype of the computation.

    Returns:
        As loop's.
    """
    L, D = form.num_layers, form.directions
    if exporting():
        check_export()
        by = "auto"
    if not form.dropout or L == 1:
        return _operator(cell, by, call, form)
    each = len(call.weights) // L
    x, finals = call.x, []
    sequences: tuple[Tensor, ...] = ()
    for k in range(L):
        rows = slice(k * D, (k + 1) * D)
        part = call._replace(
            x=drop(x, form.dropout) if k else x,
            states=tuple([s[rows] for s in call.states]),
            weights=call.weights[k * each : (k + 1) * each],
            fresh=None if call.fresh is None else tuple([s[rows] for s in call.fresh]),
            all_states=call.all_states and k == L - 1,
            inputs=tuple([a[rows] if a.shape[0] > 1 else a for a in call.inputs]),
        )
        sequences, last = _operator(cell, by, part, form)
        x = sequences[0]
        finals.append(last)
    return sequences, tuple([torch.cat(column) for column in zip(*finals, strict=True)])


def _operator(cell: Cell, by: str, call: Call, form: Form) -> Results:
    call = joined(call)
    states, fresh = call.states if call.given else (), call.fresh or ()
    options = file_key(cell.serial) if exporting() else cell.serial, by, form.bias, form.bidirectional, call.all_states
    inputs = call.x, states, call.weights, fresh, call.lengths, call.resets
    wanted = [t.requires_grad for t in (call.x, *states, *call.weights, *fresh)]
    if torch.is_grad_enabled() and any(wanted) and _keeps(call.x):
        results = torch.ops.gatefuse.layers_in_training(*inputs, wanted, *options)
    else:
        results = layers(*inputs, *options)
    S = len(cell.states)
    return tuple(results[:-S]), tuple(results[-S:])


def _keeps(x: Tensor) -> bool:
    """Whether the forward keeps what the backward needs: neither in a file nor, as it is a byte on the host, in a graph
    of a GPU's."""
    return x.device.type == "cpu" and not exporting()

"""Layers whose cell declares sizes: values of fewer units are run with as many as those that have the most.

Spare units copy the last one (kernels/spare_units.py), and are cut off what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.facts import vector_sizes
from gatefuse.kernels.plan import Plan
from gatefuse.kernels.spare_units import shared_columns, wide
from gatefuse.kernels.task import Form
from gatefuse.models.execution.calls import Call, Results
from gatefuse.models.layers.spare_units import full_weight, sources
from gatefuse.models.layers.units import Units

# Runs a call of layers of one size, x time first.
Run = Callable[[Cell, Call, Form], Results]


def run_sized(cell: Cell, call: Call, form: Form, units: Units, run: Run) -> Results:
    """Run layers whose values have units of their own.

    Args:
        call: of states (L * D, B, S) with each state's units S; weights are, of each layer and direction in turn, as
            the layer's parameters are, and x is batch first where the form is.

    Returns:
        Sequences of the last layer, (T, B, D * S) each, the output's first, the others' if asked for; finals
        (L * D, B, S) each.

    Raises:
        RuntimeError: as check_vectors.
    """
    check_vectors(cell, units)
    D, W, last = form.directions, units.most, []
    x = call.x.transpose(0, 1) if form.batch_first else call.x
    each = form._replace(num_layers=1, dropout=0.0, batch_first=False)
    own = [units.of(state) for state in cell.states]
    sequences: tuple[Tensor, ...] = ()
    for layer in range(form.num_layers):
        if layer and form.dropout:
            x = drop(x, form.dropout)
        found, finals = run(cell, within_layer(cell, call._replace(x=x), form, units, layer), each)
        sequences = tuple([_cut(s, D, W, S) for s, S in zip(found, own, strict=False)])
        last.append([_cut(s, 1, W, S) for s, S in zip(finals, own, strict=True)])
        x = sequences[0]
    results = tuple([s.transpose(0, 1) for s in sequences]) if form.batch_first else sequences
    return results, tuple([torch.cat(column) for column in zip(*last, strict=True)])


def explain_sized(cell: Cell, call: Call, units: Units, explain: Callable[[Call], Plan]) -> Plan:
    """Which driver would run layers whose values have units of their own; errors are run_sized's."""
    check_vectors(cell, units)
    rows, B, _ = call.states[0].shape
    like = call.states[0].new_empty(rows, B, units.most).requires_grad_(any(s.requires_grad for s in call.states))
    plan = explain(call._replace(states=(like,) * len(call.states)))
    return replace(plan, reason=f"with {units.most} units of all sizes, {plan.reason}")


def check_vectors(cell: Cell, units: Units) -> None:
    """Raises RuntimeError: equations that have changed multiply what has another size than the layer's weights."""
    found = dict(zip(cell.recurrent_gates, vector_sizes(cell.serial), strict=True))
    for gate, size in units.vectors.items():
        if found[gate] != size:
            raise RuntimeError(
                f"what R multiplies for {gate} of {cell.name} must have size {size}, as when the layer was made. "
                f"Got {found[gate]}, since the equations have changed."
            )


def within_layer(cell: Cell, call: Call, form: Form, units: Units, layer: int) -> Call:
    """The call of a layer of one size, x time first."""
    D, L, W = form.directions, form.num_layers, units.most
    rows, each = slice(layer * D, (layer + 1) * D), len(call.weights) // L
    weights = full_weights(cell, call.weights[layer * each : (layer + 1) * each], form, units)
    inputs = [a[rows] if a.shape[0] > 1 else a for a in call.inputs]
    return call._replace(
        states=tuple([wide(s[rows], W) for s in call.states]),
        weights=weights,
        fresh=None if call.fresh is None else tuple([wide(s[rows], W) for s in call.fresh]),
        all_states=call.all_states and layer == L - 1,
        inputs=tuple([a if a.shape[-1] == 1 else wide(a, W) for a in inputs]),
    )


def full_weights(cell: Cell, parameters: Sequence[Tensor], form: Form, units: Units) -> list[Tensor]:
    """The weights, with as many units in all places, that a layer's parameters stand for, of each direction in turn."""
    found, each = [], len(parameters) // form.directions
    for first in range(0, len(parameters), each):
        for of, rows, places, shared in sources(cell, form.bias, units):
            given = [parameters[first + k] for k in of]
            found.append(full_weight(given, rows, places, shared, units.most))
    return found


def stacked_weights(cell: Cell, parameters: Sequence[Tensor], form: Form, units: Units) -> list[Tensor]:
    """The same of all layers, in one direction, of which each reads the output of the one before with spare units."""
    check_vectors(cell, units)
    found, each = [], len(parameters) // form.num_layers
    for layer in range(form.num_layers):
        w_ih, *rest = full_weights(cell, parameters[layer * each :][:each], form, units)
        found += [shared_columns(w_ih, units.most) if layer else w_ih, *rest]
    return found


def _cut(values: Tensor, D: int, W: int, S: int) -> Tensor:
    """The units (..., D * S) of a value (..., D * W), in memory of their own."""
    if S == W:
        return values
    return values.unflatten(-1, (D, W))[..., :S].flatten(-2).contiguous()


def recurrent_weights(units: Units | None) -> int:
    """How many weights R has, of which each multiplies what has a size of its own."""
    return 1 if units is None else len(units.recurrent)

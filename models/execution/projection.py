"""Layers with a projection: what R multiplies, and the next layer reads, is W_hr h, of fewer numbers than H.

Source: H. Sak et al., Long Short-Term Memory Based Recurrent Neural Network Architectures (2014, arXiv:1402.1128).

Equations that use their output within R alone see of it R W_hr h: they are those of a layer without projection whose
recurrent weights are that product, and whose output is projected afterwards. A projected state that a sequence begins
with, where it isn't zero, is further features of the input in the step that it begins in, with the recurrent weights as
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.facts import output_elsewhere, untranslatable
from gatefuse.kernels.plan import Plan
from gatefuse.kernels.task import Form, live, restarts
from gatefuse.models.execution.calls import Call, Results, first_states

# Runs a call of layers without projection, x time first.
Run = Callable[[Cell, Call, Form], Results]


# Where compiled code, which multiplies by H numbers in the place of P, is sooner than torch's own loop of such an LSTM,
# for which it has no library. On one and two threads of an AMD EPYC it took of that one's time, at H 64,
# T 100 and T 35, P 32 and 16, 0.07 to 0.4; at H 256, P 64, B 32 0.6 to 0.7, and with one sample 0.5 to 1.2; at H 512,
# B 16, P 128 and 256 0.7 to 0.9; at H 1024, P 128, B 8 1.3 to 1.7 times; and of one step 2.3 to 3.4 times.
_STEPS, _SMALL, _SAMPLES, _LARGE, _PART = 16, 128, 8, 512, 4


def gains(T: int, B: int, H: int, P: int) -> bool:
    """Whether compiled code runs an LSTM with a projection sooner than torch's own loop, on a CPU."""
    large = B >= _SAMPLES and H <= _LARGE and H <= _PART * P
    return T >= _STEPS and (H <= _SMALL or large)


def check_cell(cell: Cell) -> None:
    """Raises ValueError: the cell's equations use their output beside R, where it would have another size."""
    rule = "the cell of a layer with proj_size must use its output in x + R(h) alone"
    if why := untranslatable(cell.serial):
        raise ValueError(f"{rule}, as code that can be made of it shows. Got {cell.name}: {why}.")
    if output_elsewhere(cell.serial):
        raise ValueError(f"{rule}. Got {cell.name}.")


def run_projected(cell: Cell, call: Call, form: Form, run: Run) -> Results:
    """Run layers with a projection.

    Args:
        call: of whose states the first has the projection's size P; weights are, of each layer and direction in turn,
            input (G * H, I), recurrent (G * H, P), biases, projection (P, H), parameters. x is batch first where the
            form is.

    Returns:
        Sequences of the last layer, the output's (T, B, D * P) first, the others' (T, B, D * H) if asked for; finals
        (L * D, B, P), and (L * D, B, H) each.

    Raises:
        ValueError: as check_cell.
    """
    check_cell(cell)
    x = call.x.transpose(0, 1) if form.batch_first else call.x
    D, last = form.directions, []
    each = form._replace(num_layers=1, dropout=0.0, batch_first=False)
    sequences: tuple[Tensor, ...] = ()
    for layer in range(form.num_layers):
        if layer and form.dropout:
            x = drop(x, form.dropout)
        part, projections = within_layer(cell, call._replace(x=x), form, layer)
        (output, *others), finals = run(cell, part, each)
        parts = output.unflatten(-1, (D, -1)).unbind(-2)
        x = torch.cat([linear(h, w) for h, w in zip(parts, projections, strict=True)], -1)
        sequences = x, *others
        last.append((_projected(call, finals[0], projections, layer * D), *finals[1:]))
    results = tuple([s.transpose(0, 1) for s in sequences]) if form.batch_first else sequences
    return results, tuple([torch.cat(column) for column in zip(*last, strict=True)])


def explain_projected(cell: Cell, call: Call, form: Form, explain: Callable[[Call], Plan]) -> Plan:
    """Which driver would run layers with a projection; arguments and errors are run_projected's."""
    check_cell(cell)
    rows, B, _ = call.states[0].shape
    (_, (projection, *_)) = _split(call.weights[: len(call.weights) // rows], form)
    inner = call.states[0].new_empty(rows, B, projection.shape[1])
    plan = explain(call._replace(states=(inner, *call.states[1:])))
    return replace(plan, reason=f"with R's weights times the projection's, {plan.reason}")


def within_layer(cell: Cell, call: Call, form: Form, layer: int) -> tuple[Call, list[Tensor]]:
    """The call of a layer without projection, x time first, and the projection of each direction."""
    D, L = form.directions, form.num_layers
    rows, each = slice(layer * D, (layer + 1) * D), len(call.weights) // (D * L)
    from_zero = not call.given and call.fresh is None and not cell.init[0]
    begins = [] if from_zero else [_begins(cell, call, k, reverse=k > rows.start) for k in range(rows.start, rows.stop)]
    weights: list[Tensor] = []
    projections = []
    for d, k in enumerate(range(rows.start, rows.stop)):
        linear_weights, (projection, *own) = _split(call.weights[k * each : (k + 1) * each], form)
        w_ih, w_hh, *biases = linear_weights
        features = [w_hh if other == d else torch.zeros_like(w_hh) for other in range(len(begins))]
        weights += [torch.cat([w_ih, *features], 1), w_hh @ projection, *biases, *own]
        projections.append(projection)
    H = projections[0].shape[1]
    none = call.x.new_zeros(D, call.B, H)
    fresh = call.fresh or first_states(cell, call.x, call.states[0].shape[0], call.B, H)
    return call._replace(
        x=torch.cat([call.x, *[b.to(call.x.dtype) for b in begins]], -1) if begins else call.x,
        states=(none, *[s[rows] for s in call.states[1:]]),
        weights=weights,
        fresh=None if call.resets is None else (none, *[s[rows] for s in fresh[1:]]),
        all_states=call.all_states and layer == L - 1,
        given=True,
    ), projections


def _split(weights: Sequence[Tensor], form: Form) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """A direction's weights and biases, and from the projection on the others."""
    return weights[: form.each], weights[form.each :]


def _begins(cell: Cell, call: Call, k: int, reverse: bool) -> Tensor:
    """What a direction's output is before each step that a sequence begins in, (T, B, P), and zero before others."""
    first, x = call.states[0][k], call.x
    lengths = None if call.lengths is None else call.lengths.to(x.device)
    start = 0 if not reverse else call.T - 1 if lengths is None else lengths - 1
    found = torch.where((torch.arange(call.T, device=x.device)[:, None] == start).unsqueeze(2), first, 0.0)
    if call.resets is None:
        return found.expand(call.T, call.B, first.shape[1])
    again = restarts(call.resets, None if lengths is None else live(lengths, call.T), reverse)
    fresh = torch.full_like(first, cell.init[0]) if call.fresh is None else call.fresh[0][k]
    return torch.where(again.unsqueeze(2), fresh, found)


def _projected(call: Call, final: Tensor, projections: Sequence[Tensor], first: int) -> Tensor:
    """A layer's last outputs (D, B, P); those of samples without a step are the first ones."""
    found = torch.stack([linear(h, w) for h, w in zip(final.unbind(0), projections, strict=True)])
    if call.lengths is None:
        return found
    before = call.states[0][first : first + len(projections)].to(found.dtype)
    return torch.where((call.lengths.to(found.device) == 0).unsqueeze(1), before, found)

"""Layers with heads: R is block-diagonal, so that each head is a recurrence of its own units, beside the others.

Equations mix no units but by R. So what a layer with n heads computes are n layers of H / n units, of the same input,
whose results lie side by side, as those of two directions do; or some of them as one layer, with zeros between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.elementwise import elementwise
from gatefuse.kernels.equations.facts import mixes_units, untranslatable
from gatefuse.kernels.plan import Plan, explain
from gatefuse.kernels.task import Form, Request
from gatefuse.models.execution.calls import Call, Results, request_of
from gatefuse.models.execution.context import exporting
from gatefuse.models.layers.layout import block_diagonal

# Runs a call of layers without heads.
Run = Callable[[Cell, Call, Form], Results]

# So many units at least run by themselves, where that takes so many multiplications at least: with fewer, products of
# all units, most of them with zeros, are done sooner. On an AMD EPYC, in 64 steps of an LSTM of H 512, parts of 16, 32,
# 64, 128 and 512 units took 1.21, 0.81, 0.70, 0.78 and 3.26 ms for one sample, and 6.4, 3.2, 3.5, 8.5 and 10.5 for 16.
_UNITS = 64
_MANY = 2**21
# Drivers that begin once for all steps; others do for each.
_ONCE = ("auto", "llvm", "vendor", "block", "grid")
_STEPS = 64  # and samples, where their number isn't known


def apart(cell: Cell, call: Call, wanted: str, heads: int) -> int:
    """How many parts of the heads run by themselves, each of some with zeros between them; 1 where all run at once.

    On a GPU all do, as each part would wait for those before; but where the driver that is asked for can't run all.
    """
    H = call.states[0].shape[-1]
    if heads == H:  # without a product
        return 1
    if wanted != "auto" and driver(wanted).refusal(Request(*request_of(cell, call))):
        return heads
    parts = next(heads // n for n in range(1, heads + 1) if not heads % n and (n == heads or n * H // heads >= _UNITS))
    if parts == 1 or call.x.device.type != "cpu":
        return 1
    each = len(cell.recurrent_gates) * H * (H // parts)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return parts if each * _STEPS >= _MANY else 1
    return parts if each * call.B * (call.T if wanted in _ONCE else 1) >= _MANY else 1


def run_heads(cell: Cell, call: Call, form: Form, heads: int, wanted: str, run: Run) -> Results:
    """Run layers with heads.

    Args:
        call: each R of shape (G * H, H / heads); x is batch first where the form is.
        wanted: the driver that the layer has.
        run: runs a call of layers without heads.

    Returns:
        Sequences of the last layer, the output's first, the others' if asked for; finals (L * D, B, H).

    Raises:
        ValueError: as check_cell.
    """
    check_cell(cell)
    number = apart(cell, call, wanted, heads)
    if number == 1:
        other, weights = at_once(cell, call.weights, form, heads)
        return run(other, call._replace(weights=weights), form)
    if form.batch_first:
        call = call._replace(x=call.x.transpose(0, 1))
    sequences, finals = by_parts(call, form, heads, number, partial(run, cell))
    return tuple([s.transpose(0, 1) for s in sequences]) if form.batch_first else sequences, finals


def explain_heads(cell: Cell, call: Call, form: Form, heads: int, wanted: str) -> Plan:
    """Which driver would run layers with heads, and how; arguments and errors are run_heads'."""
    check_cell(cell)
    number = apart(cell, call, wanted, heads)
    if number > 1:
        found, how = cell, "each of {} heads" if number == heads else f"each of {number} parts of {{}} heads"
        call = parts(call, 0, form, heads, number)[0]
    else:
        found, _ = at_once(cell, call.weights, form, heads)
        zeros, numbers = (
            "heads at once, with zeros between them",
            "units, each a head of its own, by numbers in R's place",
        )
        how = f"all {{}} {zeros if found is cell else numbers}"
    plan = explain(Request(*request_of(found, call)), wanted)
    return replace(plan, reason=f"for {how.format(heads)}, {plan.reason}")


def check_cell(cell: Cell) -> None:
    """Raises ValueError: the cell's equations mix units other than by R, or that they don't isn't known."""
    rule = "the cell of a layer with heads must mix no units but by R"
    if why := untranslatable(cell.serial):
        raise ValueError(f"{rule}, as code that can be made of it shows. Got {cell.name}: {why}.")
    if mixes_units(cell.serial):
        raise ValueError(f"{rule}. Got {cell.name}, which takes means over all of them.")


def at_once(cell: Cell, weights: Sequence[Tensor], form: Form, heads: int) -> tuple[Cell, list[Tensor]]:
    """A cell and weights that compute all heads at once: with zeros between them, or where each unit is a head of its
    own, by numbers in the place of R."""
    each = len(weights) // (form.directions * form.num_layers)
    M = len(cell.recurrent_gates)
    # a file knows the cell that was written alone
    numbers_will_do = weights[1].shape[1] == 1 and M and not exporting()
    made = elementwise(cell.serial, form.bias) if numbers_will_do else cell
    if made is cell or untranslatable(made.serial):
        return cell, [block_diagonal(w, heads) if k % each == 1 else w for k, w in enumerate(weights)]
    found = []
    for first in range(0, len(weights), each):
        w_ih, w_hh, *rest = weights[first : first + each]
        numbers = [*w_hh.reshape(M, heads).unbind(0)]
        none = w_hh.new_empty(0, heads)
        if form.bias:
            b_ih, b_hh, *own = rest
            found += [w_ih, none, b_ih, none[:, 0], *own, *numbers, *b_hh.reshape(M, heads).unbind(0)]
        else:
            found += [w_ih, none, *rest, *numbers]
    return made, found


def by_parts(call: Call, form: Form, heads: int, number: int, run: Callable[[Call, Form], Results]) -> Results:
    """Run parts of the heads of each layer by themselves.

    Args:
        call: with x of shape (T, B, I), and each R of shape (G * H, H / heads).
        form: the layers'; x is time first whatever it says.
        number: of parts.
        run: runs a call of one layer, of a part's units.

    Returns:
        Sequences of the last layer, (T, B, D * H), the output's first, the others' if asked for; finals (L * D, B, H).
    """
    D, L = form.directions, form.num_layers
    each = form._replace(num_layers=1, dropout=0.0, batch_first=False)
    x, last = call.x, []
    sequences: tuple[Tensor, ...] = ()
    for layer in range(L):
        if layer and form.dropout:
            x = drop(x, form.dropout)
        given = call._replace(x=x, all_states=call.all_states and layer == L - 1)
        results = [run(part, each) for part in parts(given, layer, form, heads, number)]
        sequences = tuple([_joined(column, D) for column in zip(*[found for found, _ in results], strict=True)])
        last.append([torch.cat(column, -1) for column in zip(*[finals for _, finals in results], strict=True)])
        x = sequences[0]
    return sequences, tuple([torch.cat(column) for column in zip(*last, strict=True)])


def parts(call: Call, layer: int, form: Form, heads: int, number: int) -> list[Call]:
    """The calls of a layer's parts, of some heads each, with zeros between these."""
    D, n = form.directions, len(call.weights) // (form.directions * form.num_layers)
    rows, H = slice(layer * D, (layer + 1) * D), call.states[0].shape[-1]
    states = [_units(s[rows], number) for s in call.states]
    weights = [_rows(w, number, H) for w in call.weights[layer * D * n : (layer + 1) * D * n]]
    if number < heads:
        weights = [
            [block_diagonal(part, heads // number) for part in w] if k % n == 1 else w for k, w in enumerate(weights)
        ]
    fresh = None if call.fresh is None else [_units(s[rows], number) for s in call.fresh]
    inputs = [_units(a[rows] if a.shape[0] > 1 else a, number) for a in call.inputs]
    return [
        call._replace(
            states=tuple([s[k] for s in states]),
            weights=[w[k] for w in weights],
            fresh=None if fresh is None else tuple([s[k] for s in fresh]),
            inputs=tuple([a[k] for a in inputs]),
        )
        for k in range(number)
    ]


def _units(state: Tensor, number: int) -> Sequence[Tensor]:
    """Each part's units of a state (D, B, H), in memory of their own, as loops read them; or of what has 1 in the place
    of H, as all units have the same."""
    if state.shape[-1] == 1:
        return [state] * number
    return [part.contiguous() for part in state.chunk(number, -1)]


def _rows(weight: Tensor, number: int, H: int) -> Sequence[Tensor]:
    """Each part's rows of a weight (gates * H, ...), gate by gate."""
    rest = weight.shape[1:]
    by_part = weight.reshape(-1, number, H // number, *rest).transpose(0, 1)
    return by_part.reshape(number, -1, *rest).unbind(0)


def _joined(by_part: Sequence[Tensor], D: int) -> Tensor:
    """Sequences (T, B, D * H) of the parts': by direction, then part."""
    if D == 1:
        return torch.cat(list(by_part), -1)
    return torch.cat([part.unflatten(-1, (D, -1)) for part in by_part], -1).flatten(-2)

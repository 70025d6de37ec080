"""The Python loop over the equations as they were written, which every other loop is held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.facts import untranslatable
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.inputs import GatesAndInputs, cut
from gatefuse.kernels.equations.recurrence import Recurrence
from gatefuse.kernels.loops.care import Careful, reached
from gatefuse.kernels.loops.directions import inputs_of
from gatefuse.kernels.task import Outcome


def loop(
    cell: Cell,
    x: Tensor,
    states: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    parameters: Sequence[Tensor],
    restarts: Tensor | None,
    fresh: Sequence[Tensor] | None,
    live: Tensor | None,
    reverse: bool,
    wanted: int,
) -> Outcome:
    """The loop alone, from x (T, B, blocks * H) on: the input product, and behind it the inputs beside the gates.

    Args:
        restarts, live: (T, B) bool or None; beyond its end a sample's states stay, in the sequences too.
        fresh: the states that a restart begins with, (B, H) each; None without restarts.
        wanted: how many states' sequences are returned.
    """
    careful = Careful(cell) if untranslatable(cell.serial) else None
    step = cell.step if careful is None else careful.step
    R = Recurrence(cell.recurrent_gates, weight, bias, cell.gates)
    named = dict(zip(cell.parameters, parameters, strict=True))
    for name, value in named.items():
        if value.shape != states[0].shape[-1:]:
            raise ValueError(
                f"parameter {name} must have shape {tuple(states[0].shape[-1:])}. Got {tuple(value.shape)}."
            )
    T = x.shape[0]
    # all steps' slices at once, since an operator costs more than what it does here
    of_gates, beside = cut(x, len(cell.input_gates), cell.inputs)
    gates = of_gates.unbind(0)
    begins = None if restarts is None else restarts.unsqueeze(2).unbind(0)
    lives = None if live is None else live.unsqueeze(2).unbind(0)
    history: list[tuple[Tensor, ...]] = []
    now = tuple(states)
    for t in range(T - 1, -1, -1) if reverse else range(T):
        before = now
        if begins is not None and fresh is not None:
            now = tuple(torch.where(begins[t], first, s) for first, s in zip(fresh, now, strict=True))
        x_t = Gates(cell.input_gates, gates[t], whole=cell.gates)
        if beside:
            at_step = {name: steps[t] for name, steps in beside.items()}
            x_t = GatesAndInputs(at_step, cell.input_gates, gates[t], whole=cell.gates)
        now = step(x_t, R, now, named)
        if lives is not None:
            now = tuple(torch.where(lives[t], new, old) for new, old in zip(now, before, strict=True))
        history.append(now)
    if reverse:
        history.reverse()
    if history:
        sequences = tuple([torch.stack([step[k] for step in history]) for k in range(wanted)])
    else:
        sequences = tuple([s.new_empty(0, *s.shape) for s in now[:wanted]])
    if not torch.is_grad_enabled():
        return Outcome(sequences, now)
    given: dict[str, tuple[Tensor | None, ...]] = {"x": (x,), "R": (weight, bias)}
    given |= {name: (value,) for name, value in (*zip(cell.states, states, strict=True), *named.items())}
    return reached(cell, Outcome(sequences, now), given)


def loop_in_order(
    cell: Cell,
    x: Tensor,
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    parameters: Tensor,
    restarts: Tensor | None,
    fresh: Tensor | None,
    live: Tensor | None,
    order: str,
) -> Outcome:
    """The loop on the stacked inputs of a sequence (kernels/loops/inputs.py), with the sequences of all states."""
    if order != "both":
        return loop(
            cell, x, states.unbind(0), weight, bias, parameters.unbind(0), restarts,
            None if fresh is None else fresh.unbind(0), live, order == "reverse", len(cell.states),
        )  # fmt: skip
    inputs = x, states, weight, bias, parameters, restarts, fresh, live
    found = [loop_in_order(cell, *[*inputs_of(inputs, d), order]) for d, order in enumerate(("forward", "reverse"))]
    sequences, finals = ([torch.cat(pair, -1) for pair in zip(*each, strict=True)] for each in zip(*found, strict=True))
    return Outcome(tuple(sequences), tuple(finals))

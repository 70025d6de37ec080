"""What a model gives for some input, recorded so that its object can be held to it, and by how much that may err.

The rule is the tests' own (kernels/tolerance.py): at most twice what the Python loop in float32 errs at worst,
and two units of rounding, as parts of the largest value.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.drivers import eager
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.recurrence import Recurrence
from gatefuse.kernels.task import Task, Weights
from gatefuse.kernels.tolerance import allowed, error, worst
from gatefuse.models.export.chain import Layer, Lookup, Operation

STEPS = 12
_TRIES = 6  # since few numbers can come out right by luck


class Recording(NamedTuple):
    """Steps of a model.

    Attributes:
        x: (T, inputs) in float32, or integers (T, 1) where the model begins with an Embedding.
        y: (T, outputs), of the stored weights, in float64.
        allowed: by how much of y's largest value an object may err.
        loss: by how much of it the stored weights move y, 0.0 in float32.
    """

    x: Tensor
    y: Tensor
    allowed: float
    loss: float


@torch.no_grad()
def recording(given: list[Operation], meant: list[Operation], inputs: int) -> Recording:
    """Of a model as it was given, and of the one that its stored weights stand for.

    Raises:
        ValueError: its output is not finite.
    """
    eps, errors = torch.finfo(torch.float32).eps, []
    with torch.autocast("cpu", enabled=False):
        for seed in range(_TRIES, -1, -1):
            g = torch.Generator("cpu").manual_seed(seed)
            x = _input(given[0], inputs, g)
            y = outputs(meant, x, torch.float64)
            if not y.isfinite().all():
                raise ValueError("model must give finite numbers for input of unit variance. Got others.")
            errors.append(error(outputs(meant, x, torch.float32).double(), y))
            if x.is_floating_point():
                moved = x * (1 + eps * (2 * torch.rand(x.shape, generator=g, device="cpu", dtype=x.dtype) - 1))
                errors.append(error(outputs(meant, moved, torch.float32).double(), y))
        before = outputs(given, x, torch.float64)
    return Recording(x, y, allowed(worst(errors), eps), error(y, before))


def outputs(operations: list[Operation], x: Tensor, dtype: torch.dtype) -> Tensor:
    """What the Python loop over the equations gives for steps of one sample, (T, ...), in that dtype."""
    x = x if not x.is_floating_point() else x.to(dtype)
    for op in operations:
        if isinstance(op, Lookup):
            x = op.table.to(dtype)[x[:, 0]]
        elif isinstance(op, Layer):
            w = op.weights
            first, second = (b if b is None else b.to(dtype) for b in (w.input_bias, w.recurrent_bias))
            parameters = tuple([p.to(dtype) for p in w.parameters])
            weights = Weights(w.input.to(dtype), w.recurrent.to(dtype), first, second, parameters)
            states = tuple(x.new_full((1, op.outputs), first) for first in op.cell.init)
            x = eager.run(Task(op.cell, x[:, None], states, weights)).sequences[0][:, 0]
        else:
            none = Recurrence(op.cell.gates, x.new_empty(0, 0), None)
            (x,) = op.cell.step(Gates(op.cell.gates, x), none, (x,), {})
    return x


def _input(first: Operation, inputs: int, g: torch.Generator) -> Tensor:
    if isinstance(first, Lookup):
        return torch.randint(len(first.table), (STEPS, 1), generator=g, device="cpu")
    return torch.randn(STEPS, inputs, generator=g, device="cpu", dtype=torch.float32)

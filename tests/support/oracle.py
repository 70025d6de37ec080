"""What tests compare with: the eager loop and autograd in float64, and the rule by which a kernel may err.

The rule: in any of its results a driver errs at most twice as much as the eager loop errs at worst in the same dtype
against float64, plus two units of rounding of what is multiplied; errors are parts of a result's largest value. The
worst is sought in several tasks of the same size, and in the task itself with its inputs moved by a unit of rounding:
where a result is the small rest of large terms, the eager loop shows it there. No tolerance is chosen by hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import eager
from gatefuse.kernels.task import Task, Weights
from gatefuse.kernels.tolerance import allowed, error


def make_task(
    cell: Cell, T: int, B: int, H: int, *, input_size: int = 3, bias: bool = True, seed: int = 0, **options
) -> Task:
    """A task of random values in float64; options as Task's, but lengths, resets, fresh may be True for random ones."""
    g = torch.Generator().manual_seed(seed)
    G, M = len(cell.input_gates), len(cell.recurrent_gates)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).mul_(0.5)

    weights = Weights(
        draw(G * H, input_size),
        draw(M * H, H),
        draw(G * H) if bias else None,
        draw(M * H) if bias else None,
        tuple(draw(H) for _ in cell.parameters),
    )
    # A normalizer (slstm's n) is positive in use; so is every first state here.
    states = tuple(draw(B, H).abs() for _ in cell.states)
    if options.get("lengths") is True:
        options["lengths"] = torch.randint(0, T + 1, (B,), generator=g)
    if options.get("resets") is True:
        options["resets"] = torch.rand(T, B, generator=g) < 0.4
    if options.get("fresh") is True:
        options["fresh"] = tuple(draw(B, H).abs() for _ in cell.states)
    options = {k: v for k, v in options.items() if v is not False and v is not None}
    x = draw(T, B, input_size)
    # one number a unit, or for the whole sequence, in turn; from 0 to 1, as scores and times are
    shapes = [(1, B, 1) if k % 2 else (T, B, H) for k in range(len(cell.inputs))]
    inputs = tuple(torch.rand(shape, generator=g, dtype=torch.float64) for shape in shapes)
    return Task(cell, x, states, weights, inputs=inputs, **options)


def cast(task: Task, dtype: torch.dtype, device: str | torch.device = "cpu") -> Task:
    """The same task in another dtype, with leaves that require gradients."""

    task = change(task, lambda value: value.detach().to(device, dtype).requires_grad_())
    masks = {name: getattr(task, name) for name in ("lengths", "resets")}
    return dataclasses.replace(task, **{name: mask.to(device) for name, mask in masks.items() if mask is not None})


def change(task: Task, how: Callable[[Tensor], Tensor]) -> Task:
    """The same task with every input that has a gradient changed."""

    def changed(value: Tensor | None) -> Tensor | None:
        return None if value is None else how(value)

    w = task.weights
    return dataclasses.replace(
        task,
        x=how(task.x),
        states=tuple(how(s) for s in task.states),
        fresh=None if task.fresh is None else tuple(how(s) for s in task.fresh),
        inputs=tuple(how(a) for a in task.inputs),
        weights=Weights(
            how(w.input),
            how(w.recurrent),
            changed(w.input_bias),
            changed(w.recurrent_bias),
            tuple(how(p) for p in w.parameters),
        ),
    )


def results(driver, task: Task) -> dict[str, Tensor]:
    """Sequences, finals and the gradients of all inputs for fixed random gradients of the results, in float64."""
    outcome = driver.run(task)
    w = task.weights
    found = {f"sequence {k}": s for k, s in enumerate(outcome.sequences)}
    found |= {f"final {k}": s for k, s in enumerate(outcome.finals)}
    leaves = {"x": task.x, "weight_ih": w.input, "weight_hh": w.recurrent}
    leaves |= {"bias_ih": w.input_bias, "bias_hh": w.recurrent_bias}
    leaves |= {f"state {k}": s for k, s in enumerate(task.states)}
    leaves |= {f"fresh {k}": s for k, s in enumerate(task.fresh or ())}
    leaves |= {f"input {name}": a for name, a in zip(task.cell.inputs, task.inputs, strict=True)}
    leaves |= {f"parameter {k}": p for k, p in enumerate(w.parameters)}
    leaves = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    g = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(v.shape, generator=g, dtype=torch.float64) for v in found.values()]
    grads = torch.autograd.grad(
        list(found.values()),
        list(leaves.values()),
        [c.to(v.device, v.dtype) for c, v in zip(cotangents, found.values(), strict=True)],
        allow_unused=True,
        materialize_grads=True,
    )
    found |= {f"d_{name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: value.detach().cpu().double() for name, value in found.items()}


def check(driver, task: Task, dtype: torch.dtype, device: str | torch.device = "cpu", oracle=eager) -> None:
    """Assert the rule for every result of a driver."""
    task = cast(task, dtype, device)
    # on the same device: a GPU's float64 is as good, and a CPU's would keep it waiting for minutes
    reference = results(oracle, cast(task, torch.float64, device))
    got = results(driver, task)
    for name, value in reference.items():
        assert got[name].shape == value.shape, name
    found = errors(got, reference)
    T, B, H = *task.x.shape[:2], task.weights.recurrent.shape[1]
    eps = rounding(driver, dtype, device)
    eager_errs = max(
        eager_error(task.cell, T, B, H, dtype, device), moved_error(task, reference, eps, dtype, device, oracle)
    )
    most = allowed(eager_errs, eps)
    for name, err in found.items():
        assert err <= most, f"{name} must err at most by {most:.3e} in {dtype}. Got {err:.3e}."


def moved_error(
    task: Task, reference: dict[str, Tensor], eps: float, dtype: torch.dtype, device: str | torch.device, oracle=eager
) -> float:
    """The eager loop's worst error in the task itself, each input moved at random by at most a unit of rounding, eps.

    As a sum's rounding errors move its terms by about as much, this tells how sensitive the results are.
    """
    g = torch.Generator().manual_seed(2)

    def moved(value: Tensor) -> Tensor:
        value = value.detach().cpu().double()
        by = 2 * torch.rand(value.shape, generator=g, dtype=torch.float64) - 1
        return value * (1 + eps * by)

    worst = 0.0
    for _ in range(2):
        near = change(task, moved)
        worst = max([worst, *errors(results(oracle, cast(near, dtype, device)), reference).values()])
    return worst


def rounding(driver, dtype: torch.dtype, device: str | torch.device) -> float:
    """The unit of rounding of what is multiplied: tf32's 10 bits where float32 goes through a GPU's matrix unit.

    The unit drops the bits beyond, of both factors and towards zero: each may be off by the whole of 2**-10, and all to
    the same side. The eager loop multiplies in float32, so that its own errors say nothing of that.
    """
    on_gpu = torch.device(device).type == "cuda"
    if dtype == torch.float32 and on_gpu and getattr(driver, "name", "") in ("block", "grid"):
        return 2.0**-10
    return torch.finfo(dtype).eps


def errors(values: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each result as part of the result's largest value."""
    return {name: error(values[name], value) for name, value in reference.items() if value.numel()}


@cache
def eager_error(cell: Cell, T: int, B: int, H: int, dtype: torch.dtype, device: str | torch.device) -> float:
    """The eager loop's worst error in tasks of that size: in several, since few numbers can come out right by luck.

    In float64, which has no reference of more digits, the error in float32 by the ratio of their roundings.
    """
    if dtype == torch.float64:
        ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        return ratio * eager_error(cell, T, B, H, torch.float32, device)
    worst = 0.0
    for seed in range(max(1, min(50, 1000 // max(1, T * B * H)))):
        task = cast(make_task(cell, T, B, H, seed=seed), dtype, device)
        reference = results(eager, cast(task, torch.float64, device))
        worst = max([worst, *errors(results(eager, task), reference).values()])
    return worst

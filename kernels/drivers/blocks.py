"""x as loops are given it, in blocks of H columns: the input's product, then the inputs beside the gates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from gatefuse.kernels.task import Task


def blocks(task: Task) -> Tensor:
    """The input's product with its bias, and the inputs: (T, B, blocks * H). Errors are behind's."""
    return behind(linear(task.x, task.weights.input, task.weights.input_bias), task)


def both_blocks(tasks: tuple[Task, Task], weight: Tensor, bias: Tensor | None) -> Tensor:
    """As blocks, of both directions: (T, B, blocks * 2 * H); weight and bias are theirs, put together."""
    product = linear(tasks[0].x, weight, bias)
    if not tasks[0].cell.inputs:
        return product
    pairs = zip(*map(_wide, tasks), strict=True)
    return torch.cat([product, *[part for pair in pairs for part in pair]], 2)


def behind(x: Tensor, task: Task) -> Tensor:
    """x (T, B, any), and the task's inputs behind it, H columns each.

    Raises:
        ValueError: the task has more or fewer than its cell.
    """
    return torch.cat([x, *_wide(task)], 2) if task.cell.inputs or task.inputs else x


def _wide(task: Task) -> list[Tensor]:
    if len(task.inputs) != len(task.cell.inputs):
        names = ", ".join(task.cell.inputs) or "none"
        raise ValueError(f"a task must have the inputs of {task.cell.name} ({names}). Got {len(task.inputs)}.")
    shape = *task.x.shape[:2], task.weights.recurrent.shape[1]
    return [value.expand(shape) for value in task.inputs]

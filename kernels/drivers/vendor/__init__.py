"""torch's own time loop: torch.lstm, torch.gru, torch.rnn_tanh and torch.rnn_relu, behind which cuDNN, MIOpen, oneDNN
or torch's native code do the work.
"""

from __future__ import annotations

import torch

from gatefuse.kernels.drivers.vendor import padded
from gatefuse.kernels.drivers.vendor.dispatch import flatten, packed, stack, unpacks
from gatefuse.kernels.drivers.vendor.torch_rnn import knows
from gatefuse.kernels.task import Form, Outcome, Request, Task

__all__ = ["flatten", "knows", "name", "packed", "refusal", "run", "stack", "unpacks"]


name = "vendor"


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def refusal(request: Request) -> str:
    """Refuses cells that torch doesn't know, resets, sequences of inner states, and rare dtypes."""
    if not knows(request.cell):
        return f"torch has no loop for the cell {request.cell.name}"
    if request.resets:
        return "torch's own loop has no resets"
    if request.all_states and len(request.cell.states) > 1:
        return "torch's own loop gives the sequence of the output alone, not of all states"
    if request.dtype not in _DTYPES:
        return f"torch's own loop has no {str(request.dtype).removeprefix('torch.')}"
    return ""


def run(task: Task) -> Outcome:
    """One direction of one layer; backwards, each sample is turned round within its length before and after."""
    weights = task.weights
    tensors = [weights.input, weights.recurrent]
    if weights.input_bias is not None and weights.recurrent_bias is not None:
        tensors += [weights.input_bias, weights.recurrent_bias]
    x = padded.turn(task.x, task.lengths) if task.reverse else task.x
    states = [state.unsqueeze(0) for state in task.states]
    output, finals = stack(task.cell, x, states, tensors, Form(len(tensors) == 4), task.lengths)
    if task.reverse:
        output = padded.turn(output, task.lengths)
    return Outcome((output,), tuple(state.squeeze(0) for state in finals))

"""What the drivers with Triton kernels share: what they refuse, and the way from a task to the operator and back."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from gatefuse.kernels.drivers.blocks import blocks, both_blocks
from gatefuse.kernels.drivers.padding import both_spared, spared
from gatefuse.kernels.drivers.sixteens import both_in_sixteens, in_sixteens
from gatefuse.kernels.equations.facts import key_of, untranslatable, values_of_a_unit, widest_product
from gatefuse.kernels.loops.directions import join
from gatefuse.kernels.loops.operator import FLOATS, sequence
from gatefuse.kernels.loops.triton.spare_units import padded
from gatefuse.kernels.runtime.requirement import interpreter_refusal
from gatefuse.kernels.runtime.settings import interpreted, tf32_allowed
from gatefuse.kernels.task import Outcome, Request, Task

_COUNTED = 2**31
_HAS_TRITON = find_spec("triton") is not None  # asked once, as torch.compile can't ask in torch 2.11


def refusal(request: Request) -> str:
    """Refuses CPUs without an interpreter that runs, missing Triton, float64, cells that can't be translated, and more
    values a step than kernels can count."""
    if not _HAS_TRITON:
        return "Triton is not installed"
    if request.device.type not in ("cuda", "cpu"):
        return f"its kernels run on CUDA and ROCm devices, not on {request.device.type}"
    if request.device.type == "cpu" and not interpreted():
        return "its kernels need a GPU; on a CPU they run in Triton's interpreter alone, with TRITON_INTERPRET=1"
    if interpreted() and (why := interpreter_refusal()):
        return why
    if request.dtype not in FLOATS:
        return f"its kernels compute in float32 for float32, float16 and bfloat16, not {request.dtype}"
    if request.dtype == torch.bfloat16 and interpreted():
        return "Triton's interpreter does not round bfloat16 as a GPU does"
    if why := untranslatable(request.cell.serial):
        return why
    return uncountable(request, values_of_a_unit(request.cell.serial))


def uncountable(request: Request, values: int) -> str:
    """Refuses so many values of a unit where those of a step are more than 32 bits can tell apart; a compiled program's
    batch may be any."""
    if torch.compiler.is_compiling():
        return ""
    count = request.B * padded(request.cell, request.H) * values
    if count < _COUNTED:
        return ""
    return (
        f"its kernels number the values of a step in 31 bits, so there must be at most {_COUNTED - 1:,}, not {count:,}"
    )


def whole_refusal(request: Request) -> str:
    """Refuses for kernels that run all steps: what refusal does, products of over 8 gates, float32 without tf32."""
    if why := refusal(request):
        return why
    if widest_product(request.cell.serial) > 8:
        return "a product must have at most 8 gates"
    if request.device.type != "cpu" and request.dtype == torch.float32 and not tf32_allowed():
        return "float32 on the matrix unit is tf32, which torch.backends.cudnn.allow_tf32 forbids"
    return ""


@spared
@in_sixteens
def run(task: Task, loop: str) -> Outcome:
    """Run a task by one of the operator's loops; see Task and Outcome for shapes."""
    return _run_one(task, loop, blocks(task))


@spared
def run_whole(task: Task, loop: str) -> Outcome:
    """As run, by a loop that multiplies the input itself, unless it has inputs behind it."""
    if task.cell.inputs:
        return _run_one(task, loop, blocks(task))
    return _run_one(task, loop, task.x, task.weights.input, task.weights.input_bias)


def _run_one(task: Task, loop: str, x: Tensor, *input_weights: Tensor | None) -> Outcome:
    weights = task.weights
    parameters = torch.stack(weights.parameters) if weights.parameters else x.new_empty(0, weights.recurrent.shape[1])
    fresh = None if task.resets is None else torch.stack(task.fresh_states())
    order = "reverse" if task.reverse else "forward"
    states = torch.stack(task.states)
    inputs = x, states, weights.recurrent, weights.recurrent_bias, parameters, task.restarts(), fresh
    return _run(task, loop, order, *inputs, input_weights=input_weights)


@both_spared
@both_in_sixteens
def run_both(tasks: tuple[Task, Task], loop: str) -> Outcome:
    """Run both directions of a layer at once; they differ in weights, states, fresh states and reverse alone.

    Returns:
        The sequences and finals of both, (T, B, 2 * H) and (B, 2 * H).
    """
    task, first, second = tasks[0], tasks[0].weights, tasks[1].weights
    H = first.recurrent.shape[1]
    weights = join(list(zip(first[:4], second[:4], strict=True)), (0, 0, 0, 0), H)

    def beside(*pairs: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([torch.stack(values) for values in pairs], -1)

    input_weight, recurrent, input_bias, bias = weights
    x = both_blocks(tasks, input_weight, input_bias)
    parameters = beside(first.parameters, second.parameters) if first.parameters else x.new_empty(0, 2 * H)
    restarts = fresh = None
    if task.resets is not None:
        restarts = torch.stack([r for t in tasks if (r := t.restarts()) is not None])
        fresh = beside(*[t.fresh_states() for t in tasks])
    states = beside(*[t.states for t in tasks])
    return _run(task, loop, "both", x, states, recurrent, bias, parameters, restarts, fresh)


def _run(
    task: Task, loop: str, order: str, *inputs: Tensor | None, input_weights: tuple[Tensor | None, ...] = ()
) -> Outcome:
    """The operator on its inputs, but for live, and its results as drivers return them."""
    live = task.live()
    save = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (*inputs, *input_weights))
    options = key_of(task.cell.serial), loop, order, save, task.all_states
    output, rest, finals, _, _ = sequence(*inputs, live, *options, *input_weights)
    sequences = (output, *rest.unbind(0)) if task.all_states else (output,)
    return Outcome(task.end(sequences, live), finals.unbind(0))

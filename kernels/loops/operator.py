"""The torch.library operators behind the drivers: checked once, with fakes for tracing and registered autograd.

    gatefuse::sequence_forward   a sequence by one of gatefuse's own loops, with what its backward needs
    gatefuse::sequence_backward  its gradients

A cell crosses the operator's border by its key, a loop by its name. Shapes are those of loops/inputs.py; nothing here
brings Triton before an operator runs.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.loops.buffers import buffer_shapes, saved_layout
from gatefuse.kernels.loops.directions import dense
from gatefuse.kernels.loops.eager import loop_in_order
from gatefuse.kernels.loops.registry import LOOPS, ON_CPU, run_loop
from gatefuse.kernels.runtime.device import current

# "both" is two directions side by side, the second in reverse.
ORDERS = ("forward", "reverse", "both")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # that kernels compute with


def _check(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, fresh: Tensor | None, live: Tensor | None, loop: str, order: str,
    input_weight: Tensor | None, input_bias: Tensor | None,
) -> None:  # fmt: skip
    if loop not in LOOPS:
        raise ValueError(f"loop must be one of {', '.join(LOOPS)}. Got {loop!r}.")
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}. Got {order!r}.")
    if loop in ON_CPU and order == "both":
        raise ValueError(f"order must be forward or reverse for the loop {loop}. Got 'both'.")
    if (restarts is None) != (fresh is None):
        given, missing = ("fresh", "restarts") if restarts is None else ("restarts", "fresh")
        raise ValueError(f"restarts and fresh must be given together. Got {given} without {missing}.")
    wide = x.dtype == torch.float64 and loop in ON_CPU
    if not wide and x.dtype not in FLOATS:
        raise TypeError(
            f"x must be float32, float16 or bfloat16, or float64 for the loops {', '.join(ON_CPU)}. Got {x.dtype}."
        )
    if loop == "llvm" and (x.dtype not in (torch.float32, torch.float64) or x.device.type != "cpu"):
        raise TypeError(f"x must be float32 or float64 on a CPU for the loop llvm. Got {x.dtype} on {x.device}.")
    D, G, M = 2 if order == "both" else 1, len(cell.x_blocks), len(cell.recurrent_gates)
    if input_weight is not None:
        if loop != "llvm":
            raise ValueError(f"input_weight must be None but for the loop llvm. Got one for {loop}.")
        if x.dim() != 3 or states.dim() != 3:
            raise ValueError(f"x and states must have three dimensions. Got {x.dim()} and {states.dim()}.")
        W = states.shape[2]
    elif input_bias is not None:
        raise ValueError("input_bias must come with input_weight. Got it alone.")
    elif x.dim() != 3 or x.shape[2] % (G * D):
        raise ValueError(f"x must have shape (T, B, {G * D} * H). Got {tuple(x.shape)}.")
    else:
        W = x.shape[2] // G
    T, B = x.shape[0], x.shape[1]
    expected: list[tuple[str, Tensor | None, tuple[int, ...], torch.dtype]] = [
        ("states", states, (len(cell.states), B, W), x.dtype),
        ("weight", weight, (M * W, W // D), x.dtype),
        ("bias", bias, (M * W,), x.dtype),
        ("parameters", parameters, (len(cell.parameters), W), x.dtype),
        ("restarts", restarts, (T, B) if D == 1 else (D, T, B), torch.bool),
        ("fresh", fresh, (len(cell.states), B, W), x.dtype),
        ("live", live, (T, B), torch.bool),
        ("input_weight", input_weight, (G * W, x.shape[2]), x.dtype),
        ("input_bias", input_bias, (G * W,), x.dtype),
    ]
    for name, value, shape, dtype in expected:
        if value is None:
            continue
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}. Got {tuple(value.shape)}.")
        if value.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}. Got {value.dtype}.")
        if value.device != x.device:
            raise ValueError(f"{name} must be on {x.device}, as x is. Got {value.device}.")


def forward(
    x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, fresh: Tensor | None, live: Tensor | None,
    cell: str, loop: str, order: str, save: bool, all_states: bool,
    input_weight: Tensor | None = None, input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """A sequence of steps: output (T, B, W), the other states' rest (S - 1, T, B, W) if kept, finals (S, B, W), and
    what the backward needs (empty without ``save``). With input_weight x is the input itself.

    Raises:
        ValueError, TypeError: a shape, dtype or device is not the one that x asks for, or no loop has that name; the
            message states both.
        ModuleNotFoundError: the loop launches Triton's kernels, and Triton is not installed.
    """
    inputs = x, states, weight, bias, parameters, restarts, fresh, live
    _check(Cell.by_key(cell), *inputs, loop, order, input_weight, input_bias)
    with current(x):
        kept = run_loop(loop, "forward", _sequence(cell, inputs, order, input_weight, input_bias), save, all_states)
    return kept.output, kept.rest, kept.finals, kept.saved, kept.fed


@wraps(forward)
def _in_a_program(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    # The key was written down when the program was made; a plain call has just asked for it.
    Cell.by_key(arguments[8]).unchanged()
    return forward(*arguments)


sequence_forward = torch.library.custom_op("gatefuse::sequence_forward", _in_a_program, mutates_args=())


def backward(
    x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, fresh: Tensor | None, live: Tensor | None,
    output: Tensor, rest: Tensor, finals: Tensor, saved: Tensor, fed: Tensor,
    d_output: Tensor, d_rest: Tensor | None, d_finals: Tensor, cell: str, loop: str, order: str,
    input_weight: Tensor | None = None, input_bias: Tensor | None = None, wanted: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, states, weight, bias, parameters, fresh, input_weight and input_bias; empty where one is None,
    and for x where it is the input itself and not ``wanted``."""
    from gatefuse.kernels.loops.buffers import Forward, Upstream

    inputs = x, states, weight, bias, parameters, restarts, fresh, live
    # as they lie in memory, whatever hooks of saved tensors have made of them
    output, rest, finals, fed = dense((output, rest, finals, fed))
    saved = saved if loop in ON_CPU and saved.stride(-1) == 1 else saved.contiguous()
    with current(x):
        found = run_loop(
            loop, "backward", _sequence(cell, inputs, order, input_weight, input_bias),
            Forward(output, rest, finals, saved, fed), Upstream(*dense((d_output, d_rest, d_finals))),
            *((wanted,) if input_weight is not None else ()),
        )  # fmt: skip
    return tuple([x.new_empty(0) if d is None else d for d in found])  # type: ignore[return-value]


sequence_backward = torch.library.custom_op("gatefuse::sequence_backward", backward, mutates_args=())


def _sequence(cell: str, inputs: tuple[Any, ...], order: str, *input_weights: Tensor | None) -> Any:
    from gatefuse.kernels.loops.inputs import Sequence

    return Sequence(Cell.by_key(cell), *[*dense(inputs), order, *dense(input_weights)])


@sequence_forward.register_fake
def _(
    x, states, weight, bias, parameters, restarts, fresh, live, cell, loop, order, save, all_states,
    input_weight=None, input_bias=None,
):  # fmt: skip
    T, B, W = x.shape[0], x.shape[1], states.shape[2]
    rest, saved, fed = buffer_shapes(Cell.by_key(cell), T, B, W, save, all_states, input_weight is not None)
    kept = x.new_empty(saved)
    if loop in ON_CPU and save:
        kept = saved_layout(x.new_empty(T, B, saved[0] * W), W)
    return x.new_empty(T, B, W), x.new_empty(rest), torch.empty_like(states), kept, x.new_empty(fed)


@sequence_backward.register_fake
def _(x, states, weight, bias, parameters, restarts, fresh, *rest):
    # of the last ones, those that are as by default may be left out
    last: list[Any] = [*rest[12:], *[None, None, True][len(rest[12:]) :]]
    input_weight, input_bias, wanted = last
    leaves = (x if wanted else None, states, weight, bias, parameters, fresh, input_weight, input_bias)
    return tuple(
        x.new_empty(0) if v is None else torch.empty_like(v, memory_format=torch.contiguous_format) for v in leaves
    )


def _setup_context(ctx, inputs, output):
    *tensors, cell, loop, order, save, _, input_weight, input_bias = inputs
    if not save:
        raise RuntimeError("sequence_forward must be called with save=True where gradients are wanted. Got save=False.")
    # Without this the backward would be handed zeros as large as everything that was kept for it.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, input_weight, input_bias, *output)
    # the cell itself, which lives as long as its gradients are wanted
    ctx.cell, ctx.loop, ctx.order = Cell.by_key(cell), loop, order


def _backward(ctx, d_output, d_rest, d_finals, _d_saved, _d_fed):
    saved = ctx.saved_tensors
    inputs, input_weights, kept = saved[:8], saved[8:10], saved[10:]
    wanted = ctx.needs_input_grad[0] or input_weights[0] is None
    given = d_output, d_rest, d_finals
    # many gradients at once, of autograd's own vmap, which no operator for all steps knows
    batched = any(d is not None and torch._C._functorch.is_legacy_batchedtensor(d) for d in given)
    if given.count(None) == len(given):  # what follows has none to give
        found = [None] * 8
    elif torch.is_grad_enabled() or batched:  # grad mode is on only where the gradients' own gradients are wanted
        found = _differentiable(ctx, inputs, input_weights, given)
    else:
        d_output = torch.zeros_like(kept[0]) if d_output is None else d_output
        d_finals = torch.zeros_like(inputs[1]) if d_finals is None else d_finals
        run: Any = sequence_backward if watched(kept[0]) else backward
        upstream = d_output, d_rest, d_finals, ctx.cell.key, ctx.loop, ctx.order
        found = run(*inputs, *kept, *upstream, *input_weights, wanted)
    _, states, _, bias, _, _, fresh, _ = inputs
    given = (inputs[0] if wanted else None, states, inputs[2], bias, inputs[4], fresh, *input_weights)
    found = [None if value is None else d for value, d in zip(given, found, strict=True)]
    d_x, d_states, d_weight, d_bias, d_parameters, d_fresh, *d_input = found
    return d_x, d_states, d_weight, d_bias, d_parameters, None, d_fresh, *(None,) * 6, *d_input


def _differentiable(ctx, inputs, input_weights, given):
    """The gradients by way of the eager loop, which can be differentiated again."""
    again = torch.is_grad_enabled()
    x, states, weight, bias, parameters, restarts, fresh, live = inputs
    cell = ctx.cell.unchanged()
    with torch.enable_grad():
        product = x if input_weights[0] is None else torch.nn.functional.linear(x, *input_weights)
        sequences, finals = loop_in_order(
            cell, product, states, weight, bias, parameters, restarts, fresh, live, ctx.order
        )
        wanted = (sequences[0], torch.stack(sequences[1:]) if sequences[1:] else None, torch.stack(finals))
    outputs, gradients = [], []
    for value, gradient in zip(wanted, given, strict=True):
        if value is not None and gradient is not None:
            outputs.append(value)
            gradients.append(gradient)
    leaves = (x, states, weight, bias, parameters, fresh, *input_weights)
    needed = [v for v in leaves if v is not None and v.requires_grad]
    found = iter(torch.autograd.grad(outputs, needed, gradients, create_graph=again, allow_unused=True))
    return [next(found) if v is not None and v.requires_grad else None for v in leaves]


sequence_forward.register_autograd(_backward, setup_context=_setup_context)


PLAIN = (Tensor, torch.nn.Parameter)  # the very types: a tensor of another is told of operators


def watched(*tensors: Tensor | None) -> bool:
    """Whether somebody looks at operators: a tracer, a mode, a transform, or a tensor that is no plain one."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or any(t is not None and type(t) not in PLAIN for t in tensors)
    )


class _Sequence(torch.autograd.Function):
    """sequence_forward where nobody looks: torch.library's first call imports all of torch's compiler, and each costs
    the host more than this."""

    @staticmethod
    def forward(ctx, *arguments):  # a setup_context of its own would have torch read the signature in each call
        results = forward(*arguments)
        _setup_context(ctx, arguments, results)
        return results

    backward = staticmethod(_backward)


def sequence(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """sequence_forward, or its work; arguments, results and errors are the same."""
    if watched(*arguments[:8], *arguments[13:]):
        return sequence_forward(*arguments)
    if len(arguments) < 15:
        arguments = (*arguments, *(None,) * (15 - len(arguments)))
    if arguments[11]:
        return _Sequence.apply(*arguments)
    with torch.no_grad():
        return forward(*arguments)

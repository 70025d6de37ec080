"""The torch.library operators that stand for layers while torch traces.

    gatefuse::layers             layers over a batch of sequences, by a driver
    gatefuse::layers_gradients   its gradients: the driver runs once more, and autograd goes through it
    gatefuse::layers_in_training as layers, but that its gradients take no second run: it becomes
    gatefuse::layers_kept        which returns besides a byte for what is kept (execution/saved_graphs.py)

They take the input and all weights as they are, so that a translation (to ONNX, for one) has whole layers before it.
First states that nobody gave and the order of the final ones are their own affair: each alone would have a compiler
make a kernel for it, which on a CPU takes longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import vendor
from gatefuse.kernels.task import Form
from gatefuse.models.execution import saved_graphs
from gatefuse.models.execution.beside import parted
from gatefuse.models.execution.calls import Call, first_states, loop, plan_of, request_of


@torch.library.custom_op("gatefuse::layers", mutates_args=())
def layers(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], fresh: Sequence[Tensor],
    lengths: Tensor | None, resets: Tensor | None,
    cell: str, by: str, bias: bool, bidirectional: bool, all_states: bool,
) -> list[Tensor]:  # fmt: skip
    """Layers, without dropout between them.

    Args:
        x: (T, B, I), with inputs beside the gates as further features (beside.py).
        states: (L * D, B, H) each; none for the cell's first states.
        weights: of each layer and direction in turn.
        fresh: (L * D, B, H) each; none for the cell's first states.
        lengths, resets, all_states: as in Task.
        cell, by: the cell's serial or key, and a driver's name or "auto".

    Returns:
        The output (T, B, D * H), if wanted the other states' sequences, and the final states (L * D, B, H).
    """
    return _results((x, states, weights, fresh, lengths, resets), (cell, by, bias, bidirectional, all_states))


def _results(inputs: Sequence[Any], options: Sequence[Any]) -> list[Tensor]:
    x, states, weights, fresh, lengths, resets = inputs
    found, by, bias, bidirectional, all_states = Cell.named(options[0]), *options[1:]
    T, B, H, rows = _sizes(inputs, options)
    form = Form(bias, rows // 2 if bidirectional else rows, bidirectional)
    begin = tuple(states) or first_states(found, x, rows, B, H)
    x, beside = parted(found, x, weights[0].shape[1], H)
    given = lengths, resets, tuple(fresh) or None, all_states, T, B, True, bool(states)
    call = Call(x, begin, list(weights), *given, beside)
    # The tracer's autocast is in the graph already.
    with torch.autocast(x.device.type, enabled=False):
        name = plan_of(request_of(found, call), by).driver
        if name == "vendor":
            output, finals = vendor.stack(found, x, begin, call.weights, form, lengths)
            sequences: tuple[Tensor, ...] = (output,)
        else:
            sequences, finals = loop(found, name, call, form)
    return _own((*sequences, *finals), _smooth(inputs))


def _own(tensors: Sequence[Tensor], others: Sequence[Tensor | None]) -> list[Tensor]:
    """The tensors, contiguous and each in memory of its own, as an operator's results must be."""
    taken = {t.untyped_storage().data_ptr() for t in others if t is not None}
    owned = []
    for tensor in tensors:
        if not tensor.is_contiguous() or tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        taken.add(tensor.untyped_storage().data_ptr())
        owned.append(tensor)
    return owned


def _sizes(inputs: Sequence[Any], options: Sequence[Any]) -> tuple[int, int, int, int]:
    """T, B, H and L * D."""
    x, weights, (cell, _, bias, *_) = inputs[0], inputs[2], options
    each = Form(bias).each + len(Cell.named(cell).parameters)
    return x.shape[0], x.shape[1], weights[1].shape[1], len(weights) // each


@layers.register_fake
def _(*arguments):
    inputs, options = arguments[:6], arguments[6:]
    T, B, H, rows = _sizes(inputs, options)
    cell, _, _, bidirectional, all_states = options
    S, x = len(Cell.named(cell).states), inputs[0]
    sequences = [x.new_empty(T, B, 2 * H if bidirectional else H) for _ in range(S if all_states else 1)]
    return [*sequences, *[x.new_empty(rows, B, H) for _ in range(S)]]


def _smooth(inputs: Sequence[Any]) -> list[Tensor]:
    """The inputs that can have gradients, in a row."""
    x, states, weights, fresh, _, _ = inputs
    return [x, *states, *weights, *fresh]


def _arranged(smooth: Sequence[Any], lengths: Any, resets: Any, counts: tuple[int, int]) -> tuple[Any, ...]:
    """The operators' inputs from what can have gradients, in a row; counts are those of states and of weights."""
    x, *rest = smooth
    S, n = counts[0], sum(counts)
    return x, rest[:S], rest[S:n], rest[n:], lengths, resets


def _with(inputs: Sequence[Any], smooth: Sequence[Tensor]) -> tuple[Any, ...]:
    """The inputs, with these in place of those that can have gradients."""
    return _arranged(smooth, inputs[4], inputs[5], (len(inputs[1]), len(inputs[2])))


_INPUTS = "Tensor x, Tensor[] states, Tensor[] weights, Tensor[] fresh, Tensor? lengths, Tensor? resets"
_OPTIONS = "str cell, str by, bool bias, bool bidirectional, bool all_states"

# Not by custom_op, below which autograd can't be used.
torch.library.define("gatefuse::layers_kept", f"({_INPUTS}, bool[] wanted, {_OPTIONS}) -> Tensor[]")


@torch.library.impl("gatefuse::layers_kept", "CompositeExplicitAutograd")
def _kept(*arguments: Any) -> list[Tensor]:
    """The results of layers, and a byte; wanted says which of the smooth inputs have gradients."""
    inputs, wanted, options = arguments[:6], arguments[6], arguments[7:]
    masks = [None if t is None else t.clone() for t in inputs[4:]]  # as keep does, since the graph may hold these too
    own = *inputs[:4], *masks
    version = Cell.named(options[0]).current()
    results, byte = saved_graphs.keep(
        _smooth(inputs), wanted, lambda leaves: _results(_with(own, leaves), options), version
    )
    return [*results, byte]


@torch.library.register_fake("gatefuse::layers_kept")
def _(*arguments):
    results = torch.ops.gatefuse.layers.default(*arguments[:6], *arguments[7:])
    return [*results, torch.empty(1, dtype=torch.uint8, device="cpu")]


torch.library.define(
    "gatefuse::layers_gradients",
    f"({_INPUTS}, Tensor? byte, Tensor?[] d_results, bool[] wanted, {_OPTIONS}) -> Tensor[]",
)


@torch.library.impl("gatefuse::layers_gradients", "CompositeExplicitAutograd")
def _gradients(*arguments: Any) -> list[Tensor]:
    """Gradients of the smooth inputs that are wanted; the byte is what layers_kept returned, if that was called."""
    inputs, (byte, d_results, wanted), options = arguments[:6], arguments[6:9], arguments[9:]
    smooth = _smooth(inputs)
    found = None if byte is None else saved_graphs.back(byte, d_results)
    if found is None:
        leaves = [t.detach().requires_grad_(want) for t, want in zip(smooth, wanted, strict=True)]
        with saved_graphs.recording():
            results = _results(_with(inputs, leaves), options)
        found = saved_graphs.gradients(results, leaves, d_results)
    asked = [t for t, want in zip(smooth, wanted, strict=True) if want]
    dense = [torch.zeros_like(t) if d is None else d for d, t in zip(found, asked, strict=True)]
    return _own(dense, [*smooth, *d_results])


@torch.library.register_fake("gatefuse::layers_gradients")
def _(*arguments):
    asked = [t for t, want in zip(_smooth(arguments[:6]), arguments[8], strict=True) if want]
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in asked]


def _setup_context(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[4:6], *_smooth(inputs[:6]))
    ctx.counts, ctx.options = (len(inputs[1]), len(inputs[2])), inputs[6:]


def _backward(ctx, d_results):
    lengths, resets, *smooth = ctx.saved_tensors
    inputs = _arranged(smooth, lengths, resets, ctx.counts)
    wanted = [True] * len(smooth)
    found = torch.ops.gatefuse.layers_gradients(*inputs, None, d_results, wanted, *ctx.options)
    return *_arranged(found, None, None, ctx.counts), *(None,) * 5


layers.register_autograd(_backward, setup_context=_setup_context)


class _InTraining(torch.autograd.Function):
    @staticmethod
    def forward(ctx, counts, wanted, options, lengths, resets, *smooth):
        inputs = _arranged(smooth, lengths, resets, counts)
        *results, byte = torch.ops.gatefuse.layers_kept(*inputs, wanted, *options)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(byte, lengths, resets, *smooth)
        ctx.counts, ctx.wanted, ctx.options = counts, wanted, options
        return tuple(results)

    @staticmethod
    def backward(ctx, *d_results):
        byte, lengths, resets, *smooth = ctx.saved_tensors
        inputs = _arranged(smooth, lengths, resets, ctx.counts)
        found = iter(torch.ops.gatefuse.layers_gradients(*inputs, byte, d_results, ctx.wanted, *ctx.options))
        return *(None,) * 5, *[next(found) if want else None for want in ctx.wanted]


torch.library.define("gatefuse::layers_in_training", f"({_INPUTS}, bool[] wanted, {_OPTIONS}) -> Tensor[]")


# by a Function, as register_autograd would run it below autograd
@torch.library.impl("gatefuse::layers_in_training", "Autograd")
def _in_training(*arguments: Any) -> list[Tensor]:
    inputs, wanted, options = arguments[:6], arguments[6], arguments[7:]
    counts = len(inputs[1]), len(inputs[2])
    return list(_InTraining.apply(counts, wanted, options, *inputs[4:], *_smooth(inputs)))


@torch.library.impl("gatefuse::layers_in_training", "CompositeExplicitAutograd")
def _(*arguments):
    return layers(*arguments[:6], *arguments[7:])

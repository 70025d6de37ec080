"""A call of a form that came before: planned and checked then, and now only for what may have changed since. A step of
a small layer takes less time than to find out who runs it.

Where nothing is trained that is compiled code; where something is, torch's own function for one step of an LSTM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gatefuse.kernels.drivers.vendor import torch_rnn
from gatefuse.kernels.loops.operator import watched
from gatefuse.kernels.runtime.threads import available
from gatefuse.models.execution.breaks import compiler_around

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell
    from gatefuse.kernels.loops.llvm_layers import Prepared
    from gatefuse.models.execution.calls import Call
    from gatefuse.models.layers.base import Stack

Answer = tuple[Tensor, Any]
_MOST = 256  # forms that a cell keeps


class _Known(NamedTuple):
    """What holds for all calls of a form.

    Attributes:
        prepared: the layers' code and arguments; None where torch's function for a step runs them.
        shape: of the states that may be given, (L * D, B, H).
        first: those that a call begins with to which none are given; nobody writes into them.
    """

    prepared: Prepared | None
    shape: tuple[int, ...]
    first: tuple[Tensor, ...]


def repeated(layer: Stack, x: Any, state: Any, inputs: Any = None) -> Answer | None:
    """The results of a call without lengths, resets and all_states; None where it is to go the whole way."""
    if torch.compiler.is_compiling() or _something_around():
        return None
    if type(x) is not Tensor or not x.is_cpu or x.dim() != 3:
        return None
    cell = layer.cell.current()
    forms = cell.made.get(repeated)
    beside = () if inputs is None else _beside(cell, inputs, x, layer.batch_first)
    known = None if forms is None or beside is None else forms.get(_key(layer, x, beside))
    if known is None or x.is_neg():
        return None
    states = known.first if state is None else _plain(state, known, x)
    weights = layer._flat()
    if states is None or watched(*states, *weights, *(beside or ())):
        return None
    if known.prepared is None:
        output, finals = torch_rnn.step(x, states, weights, layer._form(layer.batch_first))
    else:
        output, finals = known.prepared.run(cell, x, states, weights, beside or ())
        if layer.batch_first:
            output = output.transpose(0, 1)
    return output, finals if len(finals) > 1 else finals[0]


def remember(name: str, layer: Stack, x: Tensor, call: Call) -> None:
    """Keep what ``repeated`` needs of a call that the driver of that name has just run; ``x`` is as it was given."""
    trained = torch.is_grad_enabled()
    if torch.compiler.is_compiling() or name != ("vendor" if trained else "llvm"):
        return
    if type(x) is not Tensor or not x.is_cpu or not call.batched:
        return
    form = layer._form(layer.batch_first)
    if x.is_neg() or (form.dropout and form.num_layers > 1) or not call.T * call.B or _something_around():
        return
    if (layer.training and layer.draws) or call.lengths is not None or call.resets is not None or call.all_states:
        return
    if watched(*call.states, *call.weights, *call.inputs):
        return
    cell, shape, prepared = layer.cell.current(), call.states[0].shape, None
    if trained and not torch_rnn.is_step(layer.cell, x, layer.batch_first, call.B):
        return
    if not trained:
        in_time = x.transpose(0, 1) if layer.batch_first else x
        if x.stride(2) != 1 and x.shape[2] != 1:
            return
        from gatefuse.kernels.loops.llvm_layers import Prepared

        prepared = Prepared.of(cell, in_time, shape, form, call.inputs)
    with torch.inference_mode(False):  # they outlive this call
        first = tuple([torch.full(shape, value, dtype=x.dtype) for value in cell.init])
    forms = cell.made.setdefault(repeated, {})
    if len(forms) >= _MOST:
        forms.clear()
    forms[_key(layer, x, call.inputs)] = _Known(prepared, tuple(shape), first)


def _key(layer: Stack, x: Tensor, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    return (
        x.shape, x.stride(), x.dtype, layer.input_size, layer.hidden_size, layer._form(layer.batch_first), layer.driver,
        torch.is_grad_enabled(), torch.get_num_threads(), available(), torch.are_deterministic_algorithms_enabled(),
        *[a.shape for a in inputs],
    )  # fmt: skip


def _something_around() -> bool:
    """Whether something is at work around the call that only the whole way knows."""
    return (
        compiler_around() is not None
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
        or torch.jit.is_tracing()
    )


def _beside(cell: Cell, inputs: Any, x: Tensor, batch_first: bool) -> tuple[Tensor, ...] | None:
    """The inputs beside the gates as a Call has them, where there is nothing to say about them but their shapes."""
    if type(inputs) is not dict or inputs.keys() != set(cell.inputs):
        return None
    found = []
    for name in cell.inputs:
        a = inputs[name]
        if type(a) is not Tensor or a.dtype != x.dtype or not a.is_cpu or a.is_neg() or a.dim() not in (2, 3):
            return None
        a = a.unsqueeze(-1) if a.dim() == 2 else a
        found.append((a.transpose(0, 1) if batch_first else a).unsqueeze(0))
    return tuple(found)


def _plain(state: Any, known: _Known, x: Tensor) -> tuple[Tensor, ...] | None:
    """The states that were given, where there is nothing to say about them."""
    count = len(known.first)
    if count == 1:
        state = (state,)
    elif not isinstance(state, (tuple, list)) or len(state) != count:
        return None
    for value in state:
        if type(value) is not Tensor or value.shape != known.shape or value.dtype != x.dtype or not value.is_cpu:
            return None
        if not value.is_contiguous() or value.is_neg():
            return None
    return tuple(state)

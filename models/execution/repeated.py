"""A call of a form that came before: planned and checked then, and now only for what may have changed since.

One step of a small layer takes less time than to find out who runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gatefuse.kernels.drivers.half_precision import HALVES, rounded
from gatefuse.kernels.drivers.vendor import torch_rnn
from gatefuse.kernels.loops.operator import PLAIN
from gatefuse.kernels.loops.registry import KERNELS, ON_CPU
from gatefuse.kernels.runtime.settings import tf32_allowed
from gatefuse.kernels.runtime.threads import available
from gatefuse.models.execution.breaks import compiler_around
from gatefuse.models.execution.calls import AT_ONCE, Call, first_states, prepare, runs_at_once, without_tensors
from gatefuse.models.execution.context import autocast_on
from gatefuse.models.execution.precision import cast

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell
    from gatefuse.kernels.loops.llvm.layers import Prepared
    from gatefuse.kernels.loops.llvm.training import Prepared as Training
    from gatefuse.kernels.loops.triton.layers import Prepared as Kernels
    from gatefuse.kernels.task import Form
    from gatefuse.models.layers.base import Stack

Answer = tuple[Tensor, Any]
_MOST = 256  # forms that a cell keeps
TORCHS = "torch.nn's own forward"  # in a driver's place


class _Known(NamedTuple):
    """What holds for all calls of a form.

    Attributes:
        name: the driver's, or TORCHS.
        needs_grad: whether gradients are wanted.
        prepared: what runs the layers, for results or with gradients, where it is known.
        in_time: whether it is given x time first, and not only told where it lies.
        shape: of the states that may be given, (L * D, B, H).
        first: those that a call begins with to which none are given, where nobody writes into them; else None.
        call: one of that form, without tensors.
        wide: whether it runs in float32 what is given in 16 bits.
    """

    name: str
    needs_grad: bool
    prepared: Prepared | Training | Kernels | None
    in_time: bool
    shape: tuple[int, ...]
    first: tuple[Tensor, ...] | None
    call: Call
    wide: bool


def repeated(layer: Stack, x: Any, state: Any, inputs: Any = None) -> Answer | None:
    """The results of a call without lengths, resets and all_states; None where it is to go the whole way."""
    if torch.compiler.is_compiling() or type(x) is not Tensor or x.dim() != 3 or _something_around(x):
        return None
    cell = layer.cell.current()
    forms = cell.made.get(repeated)
    beside = () if inputs is None else _beside(cell, inputs, x, layer.batch_first)
    if forms is None or beside is None:
        return None
    form = layer._form(layer.batch_first)
    known = forms.get(_key(layer, form, x, beside))
    # what a parametrization computes, it is to compute once a call
    if known is None or x.is_neg() or "parametrizations" in layer._modules:
        return None
    states = _states(state, known, cell, x)
    if states is None:
        return None
    weights = layer._flat()
    if not _as_known(known, x, (*states, *beside), weights):
        return None
    if known.name == "vendor":
        return torch_rnn.step(x, states, weights, form)
    if known.name == TORCHS:
        output, finals = torch_rnn.call(layer.cell, x, states, weights, form, alone=False)
        return output, finals if len(finals) > 1 else finals[0]
    in_time = x.transpose(0, 1) if form.batch_first and (known.in_time or known.prepared is None) else x
    if known.wide:
        in_time, weights = in_time.float(), [w.float() for w in weights]
        states, beside = tuple([s.float() for s in states]), tuple([a.float() for a in beside])
    if known.prepared is not None:
        output, finals = known.prepared.run(in_time, states, weights, beside)
    else:
        call = known.call._replace(x=in_time, states=states, weights=weights, inputs=beside)
        found = AT_ONCE[known.name](cell, call, form)
        if found is None:
            return None
        (output,), finals = found
    if known.wide:
        output, finals = output.to(x.dtype), rounded(finals, x.dtype)
    if form.batch_first:
        output = output.transpose(0, 1)
    return output, finals if len(finals) > 1 else finals[0]


def is_new(layer: Stack, x: Any) -> bool:
    """Whether a call of the layer's by torch.nn's own forward is of a form that can be remembered and isn't yet."""
    if type(x) is not Tensor or x.dim() != 3 or not x.is_cpu or _something_around(x):
        return False
    form = layer._form(layer.batch_first)
    if "parametrizations" in layer._modules or (form.dropout and form.num_layers > 1):
        return False
    return _key(layer, form, x, ()) not in layer.cell.current().made.get(repeated, {})


def remember(name: str, layer: Stack, x: Tensor, call: Call) -> None:
    """Keep what ``repeated`` needs of a call that the driver of that name, or TORCHS, has just run; ``x`` is as it was
    given."""
    if torch.compiler.is_compiling() or (name not in AT_ONCE and name not in ("vendor", TORCHS)):
        return
    form = layer._form(layer.batch_first)
    if type(x) is not Tensor or x.is_neg() or not call.batched or _something_around(x) or call.lengths is not None:
        return
    if call.resets is not None or (layer.training and layer.draws) or not runs_at_once(call, form):
        return
    needs_grad = _needs_grad(x, (*call.states, *call.inputs), call.weights)
    if name == "vendor" and not (needs_grad and torch_rnn.is_step(layer.cell, x, layer.batch_first, call.B)):
        return
    if name in KERNELS and form.bidirectional:
        return
    wide = name in ON_CPU and x.dtype in HALVES
    cell, shape, prepared, first = layer.cell.current(), call.states[0].shape, None, None
    if x.is_cpu:
        with torch.inference_mode(False):  # they outlive this call
            first = tuple([torch.full(shape, value, dtype=x.dtype, device=x.device) for value in cell.init])
    if name in AT_ONCE:
        turned = x.transpose(0, 1) if layer.batch_first else x
        like, given = (turned.float(), cast(call, torch.float32)) if wide else (turned, call)
        prepared = prepare(name, cell, like, given, form, needs_grad)
    forms = cell.made.setdefault(repeated, {})
    if len(forms) >= _MOST:
        forms.clear()
    in_time = needs_grad or name in KERNELS
    known = _Known(name, needs_grad, prepared, in_time, tuple(shape), first, without_tensors(call), wide)
    forms[_key(layer, form, x, call.inputs)] = known


def _key(layer: Stack, form: Form, x: Tensor, inputs: Sequence[Tensor]) -> tuple[Any, ...]:
    # on a CPU kernels run in Triton's interpreter
    compiled = x.is_cpu and layer.driver not in KERNELS
    settings = (torch.get_num_threads(), available()) if compiled else tf32_allowed()
    key = (
        x.shape, x.stride(), x.dtype, x.device, layer.input_size, layer.hidden_size, form, layer.driver,
        torch.is_grad_enabled(), settings, torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip
    return (*key, *[a.shape for a in inputs]) if inputs else key


def _something_around(x: Tensor) -> bool:
    """Whether something is at work around the call that only the whole way knows."""
    return (
        compiler_around() is not None
        or forward_ad._current_level >= 0
        or autocast_on(x.device)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.jit.is_tracing()
    )


def _as_known(known: _Known, x: Tensor, others: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether the weights are for such an x, gradients are wanted as of that form, and no tensor is more than one."""
    if weights[0].dtype != x.dtype or weights[0].device != x.device:
        return False
    wanted = x.requires_grad
    for tensors in (weights, others):
        for tensor in tensors:
            if type(tensor) not in PLAIN:
                return False
            wanted = wanted or tensor.requires_grad
    return (wanted and torch.is_grad_enabled()) == known.needs_grad


def _beside(cell: Cell, inputs: Any, x: Tensor, batch_first: bool) -> tuple[Tensor, ...] | None:
    """The inputs beside the gates as a Call has them, where there is nothing to say about them but their shapes."""
    if type(inputs) is not dict or inputs.keys() != set(cell.inputs):
        return None
    found = []
    for name in cell.inputs:
        a = inputs[name]
        if type(a) is not Tensor or a.dtype != x.dtype or a.device != x.device or a.is_neg() or a.dim() not in (2, 3):
            return None
        a = a.unsqueeze(-1) if a.dim() == 2 else a
        found.append((a.transpose(0, 1) if batch_first else a).unsqueeze(0))
    return tuple(found)


def _needs_grad(x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and (
        weights[0].requires_grad or any(tensor.requires_grad for tensor in (x, *states, *weights))
    )


def _states(state: Any, known: _Known, cell: Cell, x: Tensor) -> tuple[Tensor, ...] | None:
    """The states that were given, where there is nothing to say about them, or the first ones."""
    if state is None:
        return known.first or first_states(cell, x, *known.shape)
    count = len(cell.states)
    if count == 1:
        state = (state,)
    elif not isinstance(state, (tuple, list)) or len(state) != count:
        return None
    for value in state:
        if type(value) is not Tensor or value.shape != known.shape or value.dtype != x.dtype:
            return None
        if value.device != x.device or not value.is_contiguous() or value.is_neg():
            return None
    return tuple(state)

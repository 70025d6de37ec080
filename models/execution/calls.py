"""The layers and directions of a call, one after the other: what a layer's forward comes down to, whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from gatefuse.kernels.cell import Cell, Version
from gatefuse.kernels.drivers import driver
from gatefuse.kernels.drivers.half_precision import HALVES
from gatefuse.kernels.drivers.packing import moved
from gatefuse.kernels.drivers.padding import beside_within, finals_given, inputs_within, states_within
from gatefuse.kernels.drivers.vendor import torch_rnn
from gatefuse.kernels.loops.operator import watched
from gatefuse.kernels.loops.registry import KERNELS, ON_CPU
from gatefuse.kernels.plan import Plan, choose
from gatefuse.kernels.runtime.settings import tf32_allowed
from gatefuse.kernels.task import Form, Request, Task, Weights
from gatefuse.models.execution.context import PLAN, transforming
from gatefuse.models.execution.precision import in_float32, running_dtype

# Sequences, of which the first is the output, and final states.
Results = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

_MOST = 4096  # plans that a cell keeps


class Call(NamedTuple):
    """A call whose arguments are checked and have the forms that drivers take, but for x, which stays batch first.

    Without ``given`` the states are the cell's first, which nobody gave. ``inputs`` are those beside the gates, time
    first, in the order of the cell's: (L * D, T, B, H) each, or 1 in the place of any of these.
    """

    x: Tensor
    states: tuple[Tensor, ...]
    weights: list[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    fresh: tuple[Tensor, ...] | None
    all_states: bool
    T: int
    B: int
    batched: bool
    given: bool
    inputs: tuple[Tensor, ...] = ()


def first_states(cell: Cell, x: Tensor, *shape: int) -> tuple[Tensor, ...]:
    """The states that a sequence begins with where none are given; nobody writes into them, so that they may be one."""
    if not any(cell.init):
        return (x.new_zeros(shape),) * len(cell.init)
    return tuple([x.new_full(shape, value) for value in cell.init])


def loop(cell: Cell, driver_name: str, call: Call, form: Form) -> Results:
    """One driver call for each layer, and for each direction where the driver doesn't run both at once.

    Args:
        call: with x of shape (T, B, I), in the dtype of the computation.
        form: the layers'; x is time first whatever it says.

    Returns:
        Sequences of the last layer, (T, B, D * H), the output's first, the others' if asked for; finals (L * D, B, H).
    """
    if driver_name in ON_CPU and call.x.dtype in HALVES:
        return in_float32(call, lambda wide: loop(cell, driver_name, wide, form))
    if driver_name in AT_ONCE and runs_at_once(call, form) and (found := AT_ONCE[driver_name](cell, call, form)):
        return found
    x, states, lengths, beside, empty = call.x, call.states, call.lengths, call.inputs, False
    if lengths is not None:
        empty = _may_be_empty(lengths)
        lengths = moved(lengths, x.device)
        # for all layers at once: what a layer hands on is zero beyond the ends
        x, beside = inputs_within(x, lengths), beside_within(beside, lengths, call.T)
        states = states_within(cell, states, lengths) if empty else states
    rows = states[0].shape[0]
    D, n = form.directions, len(call.weights) // rows
    run = driver(driver_name).run
    both = D == 2 and both_at_once(cell, driver_name, call)
    sequences: tuple[Tensor, ...] = ()
    last_states: list[tuple[Tensor, ...]] = []
    for first in range(0, rows, D):
        if first and form.dropout:
            x = drop(x, form.dropout)
        tasks = [
            Task(
                cell,
                x,
                tuple([s[k] for s in states]),
                bundle(call.weights[k * n : (k + 1) * n], form.bias),
                lengths,
                call.resets,
                None if call.fresh is None else tuple([s[k] for s in call.fresh]),
                reverse=k > first,
                all_states=call.all_states and first + D == rows,
                within=True,
                inputs=of_row(beside, k),
            )
            for k in range(first, first + D)
        ]
        if both:
            outcome = driver(driver_name).run_both((tasks[0], tasks[1]))
            sequences = outcome.sequences
            last_states += zip(*[s.chunk(2, -1) for s in outcome.finals], strict=True)
        else:
            outcomes = [run(task) for task in tasks]
            last_states += [outcome.finals for outcome in outcomes]
            sequences = outcomes[0].sequences
            if D == 2:
                sequences = tuple([torch.cat(pair, -1) for pair in zip(*[o.sequences for o in outcomes], strict=True)])
        x = sequences[0]
    # What the caller gets shares no memory with what a driver keeps, nor with each other, so that it may be changed in
    # place and resized.
    kept = getattr(driver(driver_name), "keeps", False) and lengths is None and (both or D == 1)
    if kept and (sequences[0].requires_grad or len(sequences) > 2):
        sequences = tuple([s.clone() for s in sequences])
    # stack copies
    last = tuple([torch.stack(column) for column in zip(*last_states, strict=True)])
    return sequences, finals_given(call.states, last, lengths) if empty and lengths is not None else last


def runs_at_once(call: Call, form: Form) -> bool:
    """Whether compiled code may run all layers, nothing being dropped or watched."""
    if call.all_states or not call.T * call.B or (form.dropout and form.num_layers > 1):
        return False
    tensors = call.x, *call.states, *call.weights, *(call.fresh or ()), *call.inputs
    return not watched(*tensors, call.lengths, call.resets)


def _compiled_layers(cell: Cell, call: Call, form: Form) -> Results | None:
    """All layers by compiled code; None where it can't train them."""
    given = cell, call.x, call.states, call.weights, form
    tensors = call.x, *call.states, *call.weights, *(call.fresh or ()), *call.inputs
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
        from gatefuse.kernels.loops.llvm import layers as llvm_layers

        output, finals = llvm_layers.layers(*given, call.lengths, call.resets, call.fresh, call.inputs)
        return (output,), finals
    from gatefuse.kernels.loops.llvm import training as llvm_training

    if call.lengths is not None or not call.x.shape[2] or not llvm_training.can_train(cell, form):
        return None

    again = _by_operators(cell, form, call)
    output, finals = llvm_training.layers(*given, call.resets, call.fresh, again, call.inputs)
    return (output,), finals


def prepare(driver_name: str, version: Version, x: Tensor, call: Call, form: Form, needs_grad: bool) -> Any:
    """All layers by a driver that runs them at once, for one form of x (T, B, I), of calls without lengths and resets;
    None where it can't be foreseen."""
    inputs, shape = call.inputs, call.states[0].shape
    if driver_name in KERNELS:
        if form.bidirectional or inputs:
            return None
        from gatefuse.kernels.loops.triton import layers as kernel_layers

        again = _by_operators(version, form, without_tensors(call))
        return kernel_layers.Prepared.of(version, driver_name, x, shape[2], form, again, needs_grad)
    if needs_grad:
        from gatefuse.kernels.loops.llvm import training as llvm_training

        if not x.shape[2] or not llvm_training.can_train(version, form):
            return None
        again = _by_operators(version, form, without_tensors(call))
        return llvm_training.Prepared.of(version, x, shape, form, again, False, inputs)
    if x.stride(2) != 1 and x.shape[2] != 1:
        return None
    from gatefuse.kernels.loops.llvm import layers as llvm_layers

    return llvm_layers.Prepared.of(version, x, shape, form, inputs)


def without_tensors(call: Call) -> Call:
    """What is kept of a call beyond it: of a call without lengths and resets all but its tensors."""
    return call._replace(x=call.x.new_empty(0), states=(), weights=[], inputs=())


def _layers_by_kernels(loop_name: str, cell: Cell, call: Call, form: Form) -> Results | None:
    """All layers by Triton's kernels; None where a direction or a mask asks for more than these."""
    if form.bidirectional or call.lengths is not None or call.resets is not None or call.inputs:
        return None
    from gatefuse.kernels.loops.triton import layers as kernel_layers

    again = _by_operators(cell, form, call)
    output, finals = kernel_layers.layers(cell, loop_name, call.x, call.states, call.weights, form, again)
    return (output,), finals


AT_ONCE: dict[str, Callable[[Cell, Call, Form], Results | None]]
AT_ONCE = {"llvm": _compiled_layers, **{name: partial(_layers_by_kernels, name) for name in KERNELS}}


def _by_operators(cell: Cell, form: Form, call: Call) -> Any:
    """The same layers by the loop over the equations, which can be differentiated any number of times."""

    def again(
        x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], fresh: Any, inputs: Sequence[Tensor]
    ) -> tuple[Tensor, Any]:
        leaves = {"x": x, "states": tuple(states), "weights": list(weights), "fresh": fresh, "inputs": tuple(inputs)}
        (output,), finals = loop(cell, "eager", call._replace(**leaves), form)
        return output, finals

    return again


def of_row(inputs: Sequence[Tensor], k: int) -> tuple[Tensor, ...]:
    """Inputs beside the gates of a direction of a layer, by its row among the states: (T, B, H) each, or 1."""
    return tuple([a[k if a.shape[0] > 1 else 0] for a in inputs])


def _may_be_empty(lengths: Tensor) -> bool:
    """Whether a sample may have no step; where lengths can be read without waiting, whether one has none."""
    if lengths.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing() or transforming():
        return True
    return not lengths.all()


def both_at_once(cell: Cell, driver_name: str, call: Call) -> bool:
    """Whether both directions of a layer run in one launch."""
    refusal = getattr(driver(driver_name), "both_refusal", None)
    return refusal is not None and not refusal(Request(*request_of(cell, call)))


def bundle(tensors: Sequence[Tensor], bias: bool) -> Weights:
    """The weights of one direction of one layer, by name."""
    w_ih, w_hh, *rest = tensors
    b_ih, b_hh, *parameters = rest if bias else (None, None, *rest)
    return Weights(w_ih, w_hh, b_ih, b_hh, tuple([p for p in parameters if p is not None]))


def request_of(cell: Cell, call: Call) -> tuple[Any, ...]:
    """The arguments of a Request, which hash faster than one."""
    x, states, weights, lengths, resets, fresh, all_states, T, B, _, _, beside = call
    needs_grad = torch.is_grad_enabled() and (
        weights[0].requires_grad or any(t.requires_grad for t in (*weights, x, *beside, *states, *(fresh or ())))
    )
    H = states[0].shape[-1]
    dtype = running_dtype(cell, x)
    return cell, x.device, dtype, T, B, H, needs_grad, lengths is not None, resets is not None, all_states


def plan_of(request: tuple[Any, ...], wanted: str) -> Plan:
    """The plan for the Request of these arguments; looked up where it was made before."""
    if transforming():
        return PLAN
    if torch.compiler.is_compiling():  # a tracer can't see through the cache
        return choose(Request(*request), wanted)
    cell = request[0]
    # Plans are kept by the cell, or by its equations as they are now where these could change.
    holder = cell if torch_rnn.knows(cell) else cell.current()
    plans = holder.made.setdefault("plans", {})
    # On a CPU, what was measured depends on the threads.
    key = request[1:], wanted, torch.get_num_threads() if request[1].type == "cpu" else tf32_allowed()
    try:
        plan = plans.get(key)
    except TypeError:  # a tracer's sizes, which are no numbers yet, have no hash
        return choose(Request(*request), wanted)
    if plan is None:
        if len(plans) > _MOST:
            plans.clear()
        plan = plans[key] = choose(Request(*request), wanted)
    return plan

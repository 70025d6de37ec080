"""Layers and directions around a cell: what Recurrent and the subclasses of torch.nn's layers share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import Request, vendor
from gatefuse.kernels.drivers.packing import Packing
from gatefuse.kernels.plan import Plan, choose, explain
from gatefuse.models.checks import check_input, check_lengths, check_resets, check_state
from gatefuse.models.loop import Call, loop, request_of
from gatefuse.models.transforms import PLAN, transforming


class Stack:
    """Mixin of an nn.Module: runs L layers in D directions of a cell, in the way and the shapes of torch.nn's layers.

    The module brings the attributes below, and ``_flat()``: the weights of each layer and direction in turn, in the
    order input, recurrent, both biases if there are any, per-unit parameters.
    """

    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    driver: str
    training: bool

    def _flat(self) -> list[Tensor]:
        raise NotImplementedError

    def _prepare(self, x: Any, state: Any, lengths: Any, resets: Any, reset_state: Any, all_states: bool) -> Call:
        weights = self._flat()
        check_input(x, self.input_size, weights[0])
        batched = x.dim() == 3
        if resets is not None:
            check_resets(resets, tuple(x.shape[:-1]), x.device)
            if not batched:
                resets = resets.unsqueeze(1)
            elif self.batch_first:
                resets = resets.transpose(0, 1)
        if not batched:
            x = x.unsqueeze(1)
        T, B, _ = x.shape
        if batched and self.batch_first:
            T, B = B, T
        if lengths is not None:
            lengths = check_lengths(lengths, T, B, x.device)
        n, H = 2 * self.num_layers if self.bidirectional else self.num_layers, self.hidden_size
        shape = (n, B, H) if batched else (n, H)
        states = first_states(self.cell, x, n, B, H) if state is None else self._states(state, shape, x, "state")
        fresh = None
        if reset_state is not None:
            if resets is None:
                raise ValueError("reset_state must come with resets. Got reset_state alone.")
            fresh = self._states(reset_state, shape, x, "reset_state")
        return Call(x, states, weights, lengths, resets, fresh, all_states, T, B, batched)

    def _states(self, state: Any, shape: tuple[int, ...], x: Tensor, what: str) -> tuple[Tensor, ...]:
        """(L * D, B, H) each, as given without a batch or with one."""
        # cuDNN refuses states with gaps, and kernels read them as one block
        found = check_state(self.cell, state, shape, x, what)
        if len(shape) == 2:
            found = tuple([s.unsqueeze(1) for s in found])
        return tuple(map(Tensor.contiguous, found))

    def _unpack(self, x: PackedSequence, lengths: Any, resets: Any) -> tuple[Packing, Tensor, Tensor]:
        """How x is packed, and it in padded form, batch first where the layer is, with its lengths."""
        if lengths is not None or resets is not None:
            name = "lengths" if lengths is not None else "resets"
            raise ValueError(f"{name} must be None with a PackedSequence: give a padded tensor with lengths instead.")
        packing = Packing.like(x)
        padded = packing.unpack(x.data)
        return packing, padded.transpose(0, 1) if self.batch_first else padded, packing.lengths

    def _explain(self, x: Any, state: Any, lengths: Any, resets: Any, reset_state: Any, all_states: bool) -> Plan:
        if isinstance(x, PackedSequence):
            _, x, lengths = self._unpack(x, lengths, resets)
        call = self._prepare(x, state, lengths, resets, reset_state, all_states)
        return PLAN if transforming() else explain(Request(*request_of(self.cell, call)), self.driver)

    def _run(
        self, x: Any, state: Any, lengths: Any, resets: Any, reset_state: Any, all_states: bool
    ) -> tuple[Any, Any]:
        packed = packing = None
        if isinstance(x, PackedSequence):
            packed = x
            packing, x, lengths = self._unpack(x, lengths, resets)
        # lengths of a PackedSequence need no check
        call = self._prepare(x, state, lengths if packing is None else None, resets, reset_state, all_states)
        if packing is not None:
            call = call._replace(lengths=lengths)
        how = plan_of(request_of(self.cell, call), self.driver)
        batch_first = self.batch_first and call.batched
        dropout = self.dropout if self.training else 0.0
        sequences: tuple[Any, ...]
        if how.driver == "vendor" and not torch.compiler.is_compiling():
            output, finals = vendor.stack(
                self.cell,
                call.x,
                call.states,
                call.weights,
                num_layers=self.num_layers,
                bidirectional=self.bidirectional,
                batch_first=batch_first,
                bias=self.bias,
                dropout=dropout,
                lengths=call.lengths,
                packing=packing,
            )
            sequences = (output,)
        else:
            if batch_first:
                call = call._replace(x=call.x.transpose(0, 1))
            # No transform can look into an operator for all steps, which torch.compile would get.
            whole = not transforming()
            sequences, finals = loop(self.cell, how.driver, call, self.bias, self.bidirectional, dropout, whole=whole)
            if batch_first:
                sequences = tuple([s.transpose(0, 1) for s in sequences])
        if packed is not None and packing is not None:
            steps = [s.transpose(0, 1) if batch_first else s for s in sequences]
            sequences = tuple([packed._replace(data=packing.pack(s)) for s in steps])
        if not call.batched:
            sequences = tuple([s.squeeze(1) for s in sequences])
            finals = tuple([s.squeeze(1).clone() for s in finals])  # so that they can be changed and detached in place
        return sequences if all_states else sequences[0], finals if len(finals) > 1 else finals[0]


def first_states(cell: Cell, x: Tensor, *shape: int) -> tuple[Tensor, ...]:
    """The states that a sequence begins with where none are given; nobody writes into them, so that they may be one."""
    if not any(cell.init):
        return (x.new_zeros(shape),) * len(cell.init)
    return tuple([x.new_full(shape, value) for value in cell.init])


def plan_of(request: tuple[Any, ...], wanted: str) -> Plan:
    """The plan for the Request of these arguments; looked up where it was made before."""
    if transforming():
        return PLAN
    if torch.compiler.is_compiling():  # a tracer can't see through the cache
        return choose(Request(*request), wanted)
    return _plan_of(request, wanted, torch.backends.cudnn.allow_tf32)


@lru_cache(maxsize=4096)
def _plan_of(request: tuple[Any, ...], wanted: str, tf32: bool) -> Plan:
    return choose(Request(*request), wanted)

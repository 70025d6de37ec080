"""Layers and directions around a cell: what Recurrent and the subclasses of torch.nn's layers share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.drivers import vendor
from gatefuse.kernels.drivers.half_precision import HALVES
from gatefuse.kernels.drivers.packing import Packing, reorder
from gatefuse.kernels.loops.registry import ON_CPU
from gatefuse.kernels.plan import Plan, explain
from gatefuse.kernels.task import Form, Request
from gatefuse.models.execution.breaks import compiler_around
from gatefuse.models.execution.calls import Call, Results, first_states, loop, plan_of, request_of
from gatefuse.models.execution.context import PLAN, transforming
from gatefuse.models.execution.heads import at_once, check_cell, explain_heads, run_heads
from gatefuse.models.execution.precision import cast, in_float32, lowered
from gatefuse.models.execution.projection import explain_projected, run_projected
from gatefuse.models.execution.repeated import remember, repeated
from gatefuse.models.execution.sizes import explain_sized, run_sized, stacked_weights
from gatefuse.models.execution.traced import by_trace
from gatefuse.models.layers.arguments import check_input, check_lengths, check_packed, check_resets, check_state
from gatefuse.models.layers.beside import beside, packed_beside
from gatefuse.models.layers.noise import drawn
from gatefuse.models.layers.units import Units


class Stack:
    """Mixin of an nn.Module: runs L layers in D directions of a cell, in the way and the shapes of torch.nn's layers.

    The module brings the attributes below, and ``_flat()``: the weights of each layer and direction in turn, in the
    order input, recurrent, both biases if there are any, per-unit parameters.
    """

    _state = "state"  # what forward calls the states that are given
    cell: Cell
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    heads: int = 1  # parts of R, each of its own units
    proj_size: int = 0  # of the output, where it is projected
    _sized: Units | None = None  # of each value, where the cell declares sizes
    driver: str
    training: bool
    _modules: dict[str, Any]
    weight_dropout: float = 0.0  # of recurrent weights, in training

    def _flat(self) -> list[Tensor]:
        raise NotImplementedError

    def _at_once(self) -> tuple[Cell, list[Tensor]]:
        """A cell and weights of one R, which compute what the layer does, if with spare units."""
        weights = self._flat()
        if self._sized is not None:
            return self.cell, stacked_weights(self.cell, weights, self._form(False), self._sized)
        if self.heads == 1:
            return self.cell, weights
        check_cell(self.cell)
        return at_once(self.cell, weights, self._form(False), self.heads)

    @property
    def draws(self) -> bool:
        """Whether, in training, something is drawn beside dropout between layers."""
        return bool(self.cell.noise or self.weight_dropout)

    @property
    def _running(self) -> Cell:
        """The cell that runs now."""
        return self.cell.trained if self.training and self.cell.noise else self.cell

    def _prepare(
        self, x: Any, state: Any, lengths: Any, resets: Any, reset_state: Any, all_states: bool, inputs: Any = None
    ) -> Call:
        weights = self._flat()
        check_input(x, self.input_size, weights[0])
        batched = x.dim() == 3
        given = beside(self.cell, inputs, x, self._units, self.batch_first and batched)
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
        states = self._first(x, n, B) if state is None else self._states(state, shape, x, self._state)
        fresh = None
        if reset_state is not None:
            if resets is None:
                raise ValueError("reset_state must come with resets. Got reset_state alone.")
            fresh = self._states(reset_state, shape, x, "reset_state")
        checked = lengths, resets, fresh, all_states, T, B, batched, state is not None
        return Call(x, states, weights, *checked, given)

    def _units(self, name: str) -> int:
        """Units of a state or an input."""
        return self.hidden_size if self._sized is None else self._sized.of(name)

    @property
    def _state_units(self) -> tuple[int, ...]:
        """Units of each state, where these aren't all hidden_size."""
        if self.proj_size:
            return self.proj_size, *[self.hidden_size] * (len(self.cell.states) - 1)
        return () if self._sized is None else tuple([self._sized.of(state) for state in self.cell.states])

    def _first(self, x: Tensor, rows: int, B: int) -> tuple[Tensor, ...]:
        """The cell's own first states."""
        if sizes := self._state_units:
            return tuple([x.new_full((rows, B, n), v) for n, v in zip(sizes, self.cell.init, strict=True)])
        return first_states(self.cell, x, rows, B, self.hidden_size)

    def _states(self, state: Any, shape: tuple[int, ...], x: Tensor, what: str) -> tuple[Tensor, ...]:
        """(L * D, B, H) each, as given without a batch or with one."""
        # cuDNN refuses states with gaps, and kernels read them as one block
        found = check_state(self.cell, state, shape, x, what, self._state_units)
        if len(shape) == 2:
            found = tuple([s.unsqueeze(1) for s in found])
        return tuple(map(Tensor.contiguous, found))

    def _prepare_packed(
        self,
        x: PackedSequence,
        state: Any,
        lengths: Any,
        resets: Any,
        reset_state: Any,
        all_states: bool,
        inputs: Any = None,
    ) -> tuple[Packing, Call]:
        """How x is packed, and the call, with packed rows as its x, and samples in the order of packing."""
        for name, value in (("lengths", lengths), ("resets", resets), ("reset_state", reset_state)):
            if value is not None:
                raise ValueError(
                    f"{name} must be None with a PackedSequence: give a padded tensor with lengths instead."
                )
        weights = self._flat()
        check_packed(x, self.input_size, weights[0])
        packing = Packing.of(x.batch_sizes, x.data.device)
        T, B = packing.within.shape
        N, given = T * B if packing.rows is None else packing.rows.shape[0], x.data.shape[0]
        if given != N:
            raise RuntimeError(f"a PackedSequence of these batch_sizes must have {N} rows. Got {given}.")
        lengths = None if packing.rows is None else packing.lengths
        own = packed_beside(self.cell, inputs, x, packing, self._units, self.batch_first)
        n, H = 2 * self.num_layers if self.bidirectional else self.num_layers, self.hidden_size
        if state is None:
            states = self._first(x.data, n, B)
        else:
            states = reorder(self._states(state, (n, B, H), x.data, self._state), x.sorted_indices)
        checked = lengths, None, None, all_states, T, B, True, state is not None
        return packing, Call(x.data, states, weights, *checked, own)

    def _explain(
        self, x: Any, state: Any, lengths: Any, resets: Any, reset_state: Any, all_states: bool, inputs: Any = None
    ) -> Plan:
        given = x, state, lengths, resets, reset_state, all_states, inputs
        call = self._prepare_packed(*given)[1] if isinstance(x, PackedSequence) else self._prepare(*given)
        if transforming():
            return PLAN

        return lowered(self._running, call, self._explain_parts) if self.parted else self._explain_whole(call)

    def _explain_whole(self, call: Call) -> Plan:
        return explain(Request(*request_of(self._running, call)), self.driver)

    def _explain_parts(self, call: Call) -> Plan:
        call = cast(call, torch.float32) if self._widens(call) else call
        if self._sized is not None:
            return explain_sized(self._running, call, self._sized, self._explain_whole)
        if self.proj_size:
            return explain_projected(self._running, call, self._form(False), self._explain_whole)
        return explain_heads(self._running, call, self._form(False), self.heads, self.driver)

    def _run(
        self, x: Any, state: Any, lengths: Any, resets: Any, reset_state: Any, all_states: bool, inputs: Any = None
    ) -> tuple[Any, Any]:
        draws = self.training and self.draws
        plain = lengths is resets is reset_state is None and not all_states and not self.parted
        if plain and not draws and (found := repeated(self, x, state, inputs)):
            return found
        if isinstance(x, PackedSequence):
            packing, call = self._prepare_packed(x, state, lengths, resets, reset_state, all_states, inputs)
            call = drawn(self.cell, call, self.weight_dropout, self._sized) if draws else call
            rows, finals = self._lower(call, partial(self._run_packed, packing))
            form = x.batch_sizes, x.sorted_indices, x.unsorted_indices
            sequences: tuple[Any, ...] = tuple([PackedSequence(data, *form) for data in rows])
            finals = reorder(finals, x.unsorted_indices)
        else:
            call = self._prepare(x, state, lengths, resets, reset_state, all_states, inputs)
            call = drawn(self.cell, call, self.weight_dropout, self._sized) if draws else call
            sequences, finals = self._lower(call, partial(self._run_padded, x))
        return sequences if all_states else sequences[0], finals if len(finals) > 1 else finals[0]

    def _lower(self, call: Call, run: Callable[[Call], Results]) -> Results:
        """In autocast's dtype where there are lengths: it knows torch's loops, not what lengths need around them."""
        return run(call) if call.lengths is None else lowered(self._running, call, run)

    def _run_padded(self, x: Tensor, call: Call) -> Results:
        """Time first or batch first, as the layer is; ``x`` is as it was given."""
        form = self._form(batch_first=self.batch_first and call.batched)
        if self.parted:
            sequences, finals = self._run_parted(call, form)
        else:
            sequences, finals = self._run_whole(self._running, call, form, x)
        if not call.batched:
            sequences = tuple([s.squeeze(1) for s in sequences])
            finals = tuple([s.squeeze(1).clone() for s in finals])  # so that they can be changed and detached in place
        return sequences, finals

    def _run_whole(self, cell: Cell, call: Call, form: Form, x: Tensor | None = None) -> Results:
        """The layers with one R each, or those of a head; sequences are batch first where the form is."""
        name = plan_of(request_of(cell, call), self.driver).driver
        if name == "vendor" and not torch.compiler.is_compiling():
            run = vendor.stack if compiler_around() is None else torch.compiler.disable(vendor.stack)
            output, finals = run(cell, call.x, call.states, call.weights, form, call.lengths)
            sequences: tuple[Tensor, ...] = (output,)
        else:
            if form.batch_first:
                call = call._replace(x=call.x.transpose(0, 1))
            sequences, finals = self._loop(cell, name, call, form)
            if form.batch_first:
                sequences = tuple([s.transpose(0, 1) for s in sequences])
        if x is not None:
            remember(name, self, x, call)
        return sequences, finals

    @property
    def parted(self) -> bool:
        """Whether R is of other weights than a product of all units has: of heads, a projection, or several sizes."""
        return self.heads > 1 or self.proj_size > 0 or self._sized is not None

    def _run_parted(self, call: Call, form: Form) -> Results:
        return lowered(self._running, call, lambda lower: self._run_parts(lower, form))

    def _widens(self, call: Call) -> bool:
        """Whether parts compute in float32 what is given in 16 bits, so that no layer rounds what it hands on."""
        return call.x.is_cpu and call.x.dtype in HALVES and self.driver in ("auto", *ON_CPU)

    def _run_parts(self, call: Call, form: Form) -> Results:
        if self._widens(call):
            return in_float32(call, lambda wide: self._run_parts(wide, form))
        if self._sized is not None:
            return run_sized(self._running, call, form, self._sized, self._run_whole)
        if self.proj_size:
            return run_projected(self._running, call, form, self._run_whole)
        return run_heads(self._running, call, form, self.heads, self.driver, self._run_whole)

    def _run_packed(self, packing: Packing, call: Call) -> Results:
        form = self._form(batch_first=False)
        if self.parted:
            sequences, finals = self._run_parted(call._replace(x=packing.unpack(call.x)), form)
            return tuple([packing.pack(s) for s in sequences]), finals
        name = plan_of(request_of(self._running, call), self.driver).driver
        if name == "vendor" and not torch.compiler.is_compiling():
            run = vendor.packed if compiler_around() is None else torch.compiler.disable(vendor.packed)
            output, finals = run(self._running, call.x, call.states, call.weights, form, packing)
            return (output,), finals
        sequences, finals = self._loop(self._running, name, call._replace(x=packing.unpack(call.x)), form)
        return tuple([packing.pack(s) for s in sequences]), finals

    def _form(self, batch_first: bool) -> Form:
        dropout = self.dropout if self.training else 0.0
        return Form(self.bias, self.num_layers, self.bidirectional, dropout, batch_first)

    def _loop(self, cell: Cell, name: str, call: Call, form: Form) -> Results:
        if not torch.compiler.is_compiling():
            if torch.jit.is_tracing() and name in ("eager", "aten"):
                name = by_trace(name, Request(*request_of(cell, call)))
            run = lowered if compiler_around() is None else torch.compiler.disable(lowered)
            return run(cell, call, lambda lower: loop(cell, name, lower, form))
        # no transform can look into an operator for all steps
        if not transforming():
            from gatefuse.models.execution import compiled  # which in turn needs this module

            if compiled.stands_for(name, call.x.device):
                by = self.driver if call.x.device.type == "cpu" else name  # there, auto may choose for each T
                return lowered(cell, call, lambda lower: compiled.run(cell, by, lower, form))
        return lowered(cell, call, lambda lower: loop(cell, name, lower, form))

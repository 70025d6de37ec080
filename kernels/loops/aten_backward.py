"""The aten driver's time loop backward, divided by hoist.py: factors for many steps at once, then a loop of little more
than the products, then the gradients of the per-unit parameters, and in the end those of the weights.

Shapes as in loops/inputs.py, of one direction; everything has the dtype of x.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Several

import torch
from torch import Tensor

from gatefuse.kernels.codegen.torch_functions import TorchFunctions, torch_functions
from gatefuse.kernels.loops.buffers import Backward, Forward, Gradients, Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.reductions import d_of_largest
from gatefuse.kernels.loops.weight_gradients import finish, state_before

# Numbers in a tensor of one turn: 64 KiB in float32, of which a turn has a dozen or two.
_CACHED = 16384


def by_step(mask: Tensor | None, T: int, usual: bool) -> list[Tensor | None]:
    """A mask (T, B) as (B, 1) each, None where all of a step is ``usual``, if that can be known without waiting."""
    if mask is None:
        return [None] * T
    columns = mask.unsqueeze(2).unbind(0)
    if mask.device.type != "cpu":
        return list(columns)
    idle = (mask == usual).all(1).tolist()
    return [None if same else column for same, column in zip(idle, columns, strict=True)]


def backward(loop: Sequence, kept: Forward, upstream: Upstream) -> Gradients:
    """Run the steps backward; ``kept`` is what forward returned with save."""
    functions, shape, x = torch_functions(loop.cell), loop.shape, loop.x
    gates = x.chunk(shape.G, 2)
    slots = [kept.saved[r] if r >= 0 else gates[g] for r, g in zip(shape.R, shape.X, strict=True)]
    states = [state_before(loop, kept, s, 0) for s in range(shape.S)]
    parameters = loop.parameters.unbind(0)
    steps = _Steps(loop, functions, kept, upstream)
    for turn in _turns(loop):
        part = slice(min(turn), max(turn) + 1)
        kept_then = [v[part] for v in slots], [v[part] for v in states], parameters
        factors = [factor.unbind(0) for factor in functions.factors(*kept_then)]
        for t in turn:
            steps.run(t, [factor[t - part.start] for factor in factors])
        for k, d in zip(functions.hoisted.early, functions.d_parameters(*kept_then, steps.d_slots(part)), strict=True):
            steps.d_parameters[k] += d.sum((0, 1))
    d_x, d_r = steps.d_x(), steps.d_r()
    d_fresh = None if loop.restarts is None else torch.stack(steps.d_fresh)
    d_states, d_parameters = torch.stack(tuple(steps.d_states)), steps.d_parameters.unsqueeze(1)
    return finish(loop, kept, Backward(d_x, d_r, d_states, d_parameters, d_fresh))


def _turns(loop: Sequence) -> Iterator[list[int]]:
    """The steps, last run first, as many in a turn as let its tensors stay in a cache."""
    steps = [t for t, *_ in loop.steps()][::-1]
    many = max(1, _CACHED // max(1, loop.B * loop.W))
    for first in range(0, len(steps), many):
        yield steps[first : first + many]


class _Steps:
    """The serial part, and what it has found so far.

    Attributes:
        d_states: gradients of the states before the step that ran last, (B, W) each.
        d_fresh: those of fresh.
        d_parameters: (P, W).
    """

    def __init__(self, loop: Sequence, functions: TorchFunctions, kept: Forward, upstream: Upstream):
        self._loop, self._functions, self._kept = loop, functions, kept
        self._weights, self._parameters = loop.weights(), loop.parameters.unbind(0)
        self._upstream = [upstream.output.unbind(0)]
        self._upstream += [] if upstream.rest is None else [d.unbind(0) for d in upstream.rest]
        self._begins, self._lives = by_step(loop.restarts, loop.T, False), by_step(loop.live, loop.T, True)
        assert upstream.finals is not None
        self.d_states: Several[Tensor] = upstream.finals.unbind(0)
        self.d_fresh = [torch.zeros_like(s) for s in loop.states]
        self.d_parameters = torch.zeros_like(loop.parameters)
        new, products = loop.x.new_empty, loop.program.products
        # of each product its columns' gradients side by side, and those of each slot without a product
        self._rows = [new(loop.T, loop.B, len(p.gates) * loop.W) for p in products]
        self._apart = {k: new(loop.T, loop.B, loop.W) for k, r in enumerate(loop.shape.R) if r < 0}

    def run(self, t: int, factors: Several[Tensor]) -> None:
        """Step t backward."""
        program, live = self._loop.program, self._lives[t]
        after = list(self.d_states)
        for s, upstream in enumerate(self._upstream):
            after[s] = after[s] + upstream[t]
        d_slots: dict[int, Tensor] = {}
        d_vectors: list[Tensor | None] = [None] * len(program.products)
        before: list[Tensor | None] = []
        for phase, function in zip(program.phases, self._functions.backward, strict=True):
            found = function(factors, self._parameters, after, d_vectors)
            n = len(phase.slots)
            d_slots.update(zip(phase.slots, found[:n], strict=True))
            if phase.final:
                before = list(found[n : n + len(after)])
                for k, d in zip(self._functions.hoisted.late, found[n + len(after) :], strict=True):
                    self.d_parameters[k] += (d if live is None else torch.where(live, d, 0.0)).sum(0)
            for k in program.stage_products(phase.stage):
                rows = self._store(k, t, d_slots)
                if program.products[k].reduces == "amax":
                    d_vectors[k] = self._of_largest(k, t, rows)
                elif program.products[k].reduces:
                    d_vectors[k] = rows.mean(1, keepdim=True).expand_as(rows)
                elif program.products[k].computed:
                    d_vectors[k] = torch.mm(rows, self._weights[k])
        for k, product in enumerate(program.products):
            if (s := product.state) >= 0:
                own, rows, weight = before[s], self._rows[k][t], self._weights[k]
                before[s] = torch.mm(rows, weight) if own is None else torch.addmm(own, rows, weight)
        for k, buffer in self._apart.items():
            buffer[t] = d_slots[k] if live is None else torch.where(live, d_slots[k], 0.0)
        self.d_states = self._crossed(t, [torch.zeros_like(after[0]) if d is None else d for d in before], after)

    def _of_largest(self, k: int, t: int, rows: Tensor) -> Tensor:
        """The gradient of what amax k is of."""
        shape = self._loop.shape
        return d_of_largest(rows, self._kept.fed[shape.FED[k]][t], self._kept.saved[shape.FIRST[k]][t])

    def _store(self, k: int, t: int, d_slots: dict[int, Tensor]) -> Tensor:
        """A product's columns' gradients side by side, zero where a sample is over, whatever its factors are there."""
        first, R = self._loop.program.products[k].first, self._loop.shape.R
        columns = range(first, first + len(self._loop.program.products[k].gates))
        rows = torch.cat([d_slots[R.index(column)] for column in columns], 1, out=self._rows[k][t])
        live = self._lives[t]
        return rows if live is None else rows.masked_fill_(~live, 0.0)

    def _crossed(self, t: int, before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
        """Gradients of the states before the step, on the other side of a border and of a sample's end."""
        begins, live = self._begins[t], self._lives[t]
        if begins is not None:
            for s, d in enumerate(before):
                self.d_fresh[s] += torch.where(begins, d, 0.0)
                before[s] = torch.where(begins, 0.0, d)
        if live is not None:
            before = [torch.where(live, d, old) for d, old in zip(before, after, strict=True)]
        return before

    def d_slots(self, steps: slice = slice(None)) -> list[Tensor]:
        """The gradient of each slot in those steps, (steps, B, W)."""
        columns = [column for rows in self._rows for column in rows[steps].split(self._loop.W, 2)]
        return [columns[r] if r >= 0 else self._apart[k][steps] for k, r in enumerate(self._loop.shape.R)]

    def d_r(self) -> Tensor:
        """Gradients of the columns, (T, B, columns * W)."""
        if not self._rows:
            return self._loop.x[..., :0]
        return self._rows[0] if len(self._rows) == 1 else torch.cat(self._rows, 2)

    def d_x(self) -> Tensor:
        """(T, B, G * W)."""
        loop = self._loop
        if loop.shape.ADDITIVE:
            return self.d_r()
        of_gate = {gate: d for gate, d in zip(loop.shape.X, self.d_slots(), strict=True) if gate >= 0}
        none = loop.x.new_zeros(loop.T, loop.B, loop.W)
        return torch.cat([of_gate.get(gate, none) for gate in range(loop.shape.G)], 2)

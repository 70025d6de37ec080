"""The aten driver's time loop forward: a step is one product a stage and generated torch operators between, out of
autograd's sight. Shapes as in loops/inputs.py, of one direction; states have the dtype of x.
"""

from __future__ import annotations

from collections.abc import Sequence as Several

import torch
from torch import Tensor

from gatefuse.kernels.codegen.torch_functions import torch_functions
from gatefuse.kernels.loops.aten_backward import backward, by_step
from gatefuse.kernels.loops.buffers import Forward, buffer_shapes, saved_layout
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.reductions import of_units

__all__ = ["backward", "forward"]


def forward(loop: Sequence, save: bool, all_states: bool) -> Forward:
    """Run the steps; with save, keep what the backward needs."""
    functions, program, column_slot = torch_functions(loop.cell), loop.program, loop.shape.R.index
    x_only, sums = _x_only(loop), _sums(loop, save)
    pieces = [loop.columns(sums, k).unbind(0) for k in range(len(program.products))]
    weights, parameters = [w.t() for w in loop.weights()], loop.parameters.unbind(0)
    begins, lives = by_step(loop.restarts, loop.T, False), by_step(loop.live, loop.T, True)
    fresh = () if loop.fresh is None else loop.fresh.unbind(0)
    states: Several[Tensor] = loop.states.unbind(0)
    steps: list[Several[Tensor]] = []
    fed: list[list[Tensor]] = []
    for t, *_ in loop.steps():
        before, begin, live = states, begins[t], lives[t]
        if begin is not None:
            states = [torch.where(begin, first, s) for first, s in zip(fresh, states, strict=True)]
        slots: list[Tensor | None] = [None if column is None else column[t] for column in x_only]
        computed: list[Tensor] = []
        for stage, vectors_of in enumerate(functions.vectors, 1):
            vectors = iter(() if vectors_of is None else vectors_of(slots, states, parameters))
            for k in program.stage_products(stage):
                p = program.products[k]
                if p.computed:
                    computed.append(next(vectors))
                vector = computed[-1] if p.computed else states[p.state]
                piece = pieces[k][t]
                if p.reduces:
                    found = of_units(p.reduces, vector)
                    piece = piece.copy_(found) if save else found.expand_as(piece)
                else:
                    piece = piece.addmm_(vector, weights[k]) if save else torch.addmm(piece, vector, weights[k])
                for column, part in enumerate(piece.chunk(len(p.gates), 1), p.first):
                    slots[column_slot(column)] = part
        states = functions.update(slots, states, parameters)
        if live is not None:
            states = [torch.where(live, new, old) for new, old in zip(states, before, strict=True)]
        steps.append(states)
        fed.append(computed)
    return _kept(loop, save, all_states, steps, fed, sums)


def _x_only(loop: Sequence) -> list[tuple[Tensor, ...] | None]:
    """By slot, its part of x at each step, where it has no product; else None."""
    gates = loop.x.chunk(loop.shape.G, 2)
    pairs = zip(loop.shape.X, loop.shape.R, strict=True)
    return [gates[gate].unbind(0) if column < 0 else None for gate, column in pairs]


def _sums(loop: Sequence, own: bool) -> Tensor:
    """What products are added to, (T, B, columns * W): the bias, and x where a slot is a sum of both; own memory?"""
    bias = loop.columns_bias()
    if loop.shape.ADDITIVE:
        return loop.x + bias if bias is not None else loop.x.clone() if own else loop.x
    found = loop.x.new_zeros(loop.T, loop.B, loop.shape.COLUMNS, loop.W)
    gates = loop.x.chunk(loop.shape.G, 2)
    for gate, column in zip(loop.shape.X, loop.shape.R, strict=True):
        if gate >= 0 and column >= 0:
            found[:, :, column] = gates[gate]
    sums = found.flatten(2)
    return sums if bias is None else sums.add_(bias)


def _in_time(loop: Sequence, values: Several[Tensor]) -> Tensor:
    """(T, ...) of values in the order in which the steps ran."""
    # out, as what stack returns is a view, which may not be changed in place
    return torch.stack(tuple(values[::-1] if loop.reverse else values), out=loop.x.new_empty(loop.T, loop.B, loop.W))


def _kept(
    loop: Sequence, save: bool, all_states: bool, steps: list[Several[Tensor]], fed: list[list[Tensor]], sums: Tensor
) -> Forward:
    rest_shape, saved_shape, fed_shape = buffer_shapes(loop.cell, loop.T, loop.B, loop.W, save, all_states)
    last = torch.stack(tuple(steps[-1])) if steps else loop.states.clone()
    rest, fed_all = loop.x.new_empty(rest_shape), loop.x.new_zeros(fed_shape)
    if not steps:
        return Forward(loop.x.new_empty(0, loop.B, loop.W), rest, last, loop.x.new_empty(saved_shape), fed_all)
    kept = 1 + rest_shape[0]
    sequences = [_in_time(loop, column) for column in list(zip(*steps, strict=True))[:kept]]
    if rest_shape[0]:
        rest = torch.stack(sequences[1:])
    if save and fed_shape[0]:
        fed_all = torch.stack([_in_time(loop, column) for column in zip(*fed, strict=True)])
    saved = saved_layout(sums, loop.W) if save else loop.x.new_empty(saved_shape)
    return Forward(sequences[0], rest, last, saved, fed_all)

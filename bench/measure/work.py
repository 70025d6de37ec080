"""What a call needs at the least: operations of its products, bytes that must move, steps that must follow each other.

    flop      2 (I G H + H C H) a step, sample and direction: I features in, G gates, C with a recurrent product, of
              a head's units where R is of heads.
              Backward twice as many: the gradients of what was multiplied and of the weights.
    bytes     forward: the input and the weights read, the output written. Training, besides: the states but the output
              written and read (of these a backward can compute all else again), input, output and weights read once
              more, the output's gradient read, those of input and weights written.
    meetings  T times the stages of the cell's step (one for most cells), backward once more.

Layers add up, each reading what the one before wrote; two directions share the input, and their steps run side by side.
Steps beyond a sample's end cost nothing but the meeting.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gatefuse.bench.suite.sweeps import Group
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.work import input_products, recurrent_products


class Traffic(NamedTuple):
    """flop: operations; bytes: read plus written; meetings: times at which all of a step's work must be done."""

    flop: float
    bytes: float
    meetings: int


def traffic(group: Group) -> Traffic:
    """The least that one call of a group needs."""
    s, training = group.shape, group.mode == "training"
    cell = find_cell(s.cell)
    S, learned = len(cell.states), len(cell.input_biases) + len(cell.recurrent_biases) + len(cell.parameters)
    steps, D = s.T * s.B * s.fill, s.directions
    flop = numbers = 0.0
    for size in [s.I] + [s.H * D] * (s.layers - 1):
        products = D * (input_products(cell, size, s.H) + recurrent_products(cell, s.H) // s.heads)
        weights = products + D * (learned * s.H - len(cell.scalars) * (s.H - 1))
        x, output, others = steps * size, steps * D * s.H, steps * D * s.H * (S - 1)
        flop += (6 if training else 2) * steps * products
        numbers += x + weights + output
        if training:
            numbers += 2 * others + x + output + weights + output + x + weights
    itemsize = getattr(torch, group.dtype).itemsize
    return Traffic(flop, numbers * itemsize, s.layers * s.T * cell.program.stages * (2 if training else 1))

"""What a driver is asked, and what it answers: a task and its outcome, and what a plan must know of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell


class Weights(NamedTuple):
    """Weights of one direction of one layer, as torch.nn lays them out.

    Shapes: input (G * H, I), recurrent (G * H, H), both biases (G * H,) or None, parameters (H,) each, in the order
    of the cell's.
    """

    input: Tensor
    recurrent: Tensor
    input_bias: Tensor | None = None
    recurrent_bias: Tensor | None = None
    parameters: tuple[Tensor, ...] = ()


class Form(NamedTuple):
    """How layers are stacked, as torch.nn's arguments of these names; dropout is 0 where nothing is trained."""

    bias: bool
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    batch_first: bool = False

    @property
    def directions(self) -> int:
        """D, how many directions there are."""
        return 2 if self.bidirectional else 1

    @property
    def each(self) -> int:
        """How many weights a direction of a layer has."""
        return 4 if self.bias else 2


def live(lengths: Tensor, T: int) -> Tensor:
    """(T, B) bool: step t lies within sample b."""
    return torch.arange(T, device=lengths.device)[:, None] < lengths


def restarts(resets: Tensor, live: Tensor | None, reverse: bool) -> Tensor:
    """(T, B) bool: the states begin anew before step t *runs*.

    Backwards, a border between t - 1 and t is crossed on the way into t - 1. Steps beyond the end are no borders.
    """
    mask = resets if live is None else resets & live
    if not reverse:
        return mask
    # by indices, as torch.compile would make a graph of its own for the slices of two steps
    last = mask.shape[0] - 1
    steps = torch.arange(mask.shape[0], device=mask.device)
    return mask.index_select(0, (steps + 1).clamp(max=last)) & (steps < last).unsqueeze(1)


@dataclass(frozen=True)
class Task:
    """One direction of one layer over one batch.

    Attributes:
        x: (T, B, I).
        states: the cell's states before the first step, (B, H) each.
        lengths: (B,) integers on x's device, or None: sample b ends after lengths[b] steps; from there on its states
            stay and its output is zero.
        resets: (T, B) bool on x's device, or None: step t of sample b begins a new sequence. No state crosses the
            border between t - 1 and t, in either direction; the states begin anew.
        fresh: the states that they then begin with, (B, H) each; the cell's init where None.
        reverse: from the last step of each sample to the first.
        all_states: sequences of all states are wanted, not only of the output.
        inputs: what is given beside the gates, in the order of the cell's inputs: (T, B, H) each, or 1 in the place of
            any of these.
        within: x is zero beyond the ends, and samples of no steps have the cell's own first states, so that nothing
            there can spoil a product; else a driver sees to it (padding.py).
    """

    cell: Cell
    x: Tensor
    states: tuple[Tensor, ...]
    weights: Weights
    lengths: Tensor | None = None
    resets: Tensor | None = None
    fresh: tuple[Tensor, ...] | None = None
    reverse: bool = False
    all_states: bool = False
    within: bool = False
    inputs: tuple[Tensor, ...] = ()

    @property
    def order(self) -> range:
        """The steps in the order in which they run."""
        T = self.x.shape[0]
        return range(T - 1, -1, -1) if self.reverse else range(T)

    def restarts(self) -> Tensor | None:
        """(T, B) bool: the states begin anew before step t *runs*; None without resets."""
        return None if self.resets is None else restarts(self.resets, self.live(), self.reverse)

    def fresh_states(self) -> tuple[Tensor, ...]:
        """The states that a restart begins with, (B, H) each: fresh, or the cell's init."""
        if self.fresh is not None:
            return self.fresh
        return tuple([torch.full_like(s, first) for s, first in zip(self.states, self.cell.init, strict=True)])

    def live(self) -> Tensor | None:
        """(T, B) bool: step t lies within sample b; None without lengths."""
        return None if self.lengths is None else live(self.lengths, self.x.shape[0])

    @staticmethod
    def end(sequences: tuple[Tensor, ...], live: Tensor | None) -> tuple[Tensor, ...]:
        """The sequences (T, B, H) with zeros where a sample is over; ``live`` is what live() returned."""
        if live is None:
            return sequences
        return tuple(torch.where(live.unsqueeze(2), s, 0.0) for s in sequences)


class Outcome(NamedTuple):
    """What a driver returns: sequences (T, B, H), the output's first, the others' only if asked for; finals (B, H)."""

    sequences: tuple[Tensor, ...]
    finals: tuple[Tensor, ...]


@dataclass(frozen=True)
class Request:
    """What a plan must know of a call; sizes as in Task."""

    cell: Cell
    device: torch.device
    dtype: torch.dtype
    T: int
    B: int
    H: int
    needs_grad: bool = False
    lengths: bool = False
    resets: bool = False
    all_states: bool = False

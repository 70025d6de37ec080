"""Packing and unpacking sequences, by one gather or scatter of rows, forward and backward.

torch's pack_padded_sequence and pad_packed_sequence copy step by step, and sort the samples by a copy of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """How the samples of a batch lie in a PackedSequence.

    Attributes:
        sizes: (T,), the samples that a step has, on the CPU.
        lengths: (B,), at least 1 each, in the order of packing, which is longest first; on the CPU.
        within: (T, B), whether a sample has that step, in that order and on the CPU too.
        rows: of the T * B rows of a padded sequence, time first, those that are packed, in their order; None where they
            are all packed as they lie.
    """

    sizes: Tensor
    lengths: Tensor
    within: Tensor
    rows: Tensor | None

    @classmethod
    def of(cls, sizes: Tensor, device: torch.device, order: Tensor | None = None) -> Packing:
        """The packing of a PackedSequence, by its batch_sizes.

        Args:
            sizes: (T,) on the CPU.
            device: where the sequences are.
            order: (B,), for each packed sample its place in the padded form; None where that has the order of packing.
        """
        B = int(sizes[0])
        within = torch.arange(B, device=sizes.device) < sizes.unsqueeze(1)
        # a trace is for other lengths too
        if order is None and int(sizes.min()) == B and not torch.jit.is_tracing():
            return cls(sizes, within.sum(0), within, None)
        rows = moved(within.view(-1).nonzero().squeeze(1), device)
        if order is not None:
            samples = rows % B
            rows = rows - samples + order[samples]
        return cls(sizes, within.sum(0), within, rows)

    def pack(self, padded: Tensor) -> Tensor:
        """The packed rows, (their number, N), of padded (T, B, N), with more steps where rows may be left out."""
        rows = padded.flatten(0, 1)
        return rows if self.rows is None else rows.index_select(0, self.rows)

    def unpack(self, data: Tensor, T: int | None = None) -> Tensor:
        """Packed rows as a padded sequence, zero beyond each sample's end; T steps, by default the longest sample's."""
        longest, B = self.within.shape
        if self.rows is None:
            return data.unflatten(0, (longest, B))
        T = longest if T is None else T
        rows = data.new_zeros(T * B, *data.shape[1:])
        return rows.index_copy_(0, self.rows, data).unflatten(0, (T, B))

    def unpack_marked(self, data: Tensor) -> Tensor:
        """As unpack in the order of packing, with a further feature, the last: 1 beyond a sample's end, 0 within."""
        (T, B), size = self.within.shape, data.shape[1]
        assert self.rows is not None, "nothing lies beyond an end"
        rows = data.new_zeros(T * B, size + 1)
        rows.narrow(1, size, 1).copy_(self.within.view(-1, 1).logical_not())
        rows.narrow(1, 0, size).index_copy_(0, self.rows, data)
        return rows.view(T, B, size + 1)


def moved(numbers: Tensor, device: torch.device) -> Tensor:
    """Numbers from the host on that device, for which the host doesn't wait."""
    # A graph would copy from the host's address, which somebody else has by the time of the replay; a copy that waits
    # ends its capture with an error.
    if torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return numbers.to(device)
    return numbers.to(device, non_blocking=True)


def reorder(states: Iterable[Tensor], order: Tensor | None) -> tuple[Tensor, ...]:
    """States (L * D, B, H) with their samples in that order; as they are where it is None."""
    return tuple([s if order is None else s.index_select(1, order) for s in states])

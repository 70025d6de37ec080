"""Between padded and packed form by one gather or scatter of rows, forward and backward.

torch's pack_padded_sequence and pad_packed_sequence copy step by step, and sort the samples by a copy of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


class Packing(NamedTuple):
    """How the samples of a batch lie in a PackedSequence.

    Attributes:
        sizes: (T,), the samples that a step has, on the CPU.
        lengths: (B,), at least 1 each, in the batch's order, on the CPU unless the samples were sorted elsewhere.
        order, back: (B,), from the batch's order to the packed one, longest first, and back; None where they agree.
        rows: of the T * B rows of a padded sequence, time first, those that are packed, in their order.
    """

    sizes: Tensor
    lengths: Tensor
    order: Tensor | None
    back: Tensor | None
    rows: Tensor

    @classmethod
    def like(cls, packed: PackedSequence) -> Packing:
        """That of a PackedSequence."""
        data, sizes, order, back = packed
        B = int(sizes[0])
        within = torch.arange(B) < sizes[:, None]
        lengths = within.sum(0)
        steps, samples = (index.to(data.device, non_blocking=True) for index in within.nonzero(as_tuple=True))
        if order is not None and back is not None:
            samples, lengths = order[samples], lengths.to(back.device)[back]
        return cls(sizes, lengths, order, back, steps * B + samples)

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device) -> Packing:
        """That of samples of these lengths, (B,) on the CPU, at least 1 each."""
        longest_first, order = lengths.sort(descending=True, stable=True)
        sizes = (torch.arange(int(longest_first[0]))[:, None] < longest_first).sum(1)
        return cls.like(PackedSequence(torch.empty(0, device=device), sizes, order.to(device)))

    def pack(self, padded: Tensor) -> Tensor:
        """(T, B, N), or more steps, to the packed rows, (their number, N)."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def unpack(self, data: Tensor, T: int | None = None) -> Tensor:
        """The way back, zero beyond each sample's end; T steps, by default the longest sample's."""
        shape = len(self.sizes) if T is None else T, len(self.lengths)
        rows = data.new_zeros(shape[0] * shape[1], *data.shape[1:])
        return rows.index_copy_(0, self.rows, data).unflatten(0, shape)

    def arrange(self, states: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """(L * D, B, H) each, from the batch's order of samples to the packed one."""
        return tuple([s if self.order is None else s.index_select(1, self.order) for s in states])

    def restore(self, states: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """The way back."""
        return tuple([s if self.back is None else s.index_select(1, self.back) for s in states])

"""The rows of steps that samples have, side by side: products over all steps have none of the others then, which are
zero."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.loops.inputs import Sequence

# Multiplications that must be saved at least, as finding rows takes time, and for each number that is copied. On one
# core of an AMD EPYC a gru_reset_first of H 64 gains where half of the steps are live, and an LSTM of H 256 where three
# quarters are.
_LEAST, _A_NUMBER = 4_000_000, 20


class LiveRows(NamedTuple):
    """Which rows of (T * B, ...) are those of steps within their samples, in order."""

    places: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Of values (T, B, K), those rows, (1, n, K)."""
        return values.flatten(0, 1).index_select(0, self.places).unsqueeze(0)

    def before(self, loop: Sequence, sequence: Tensor, state: int) -> Tensor:
        """A state before each of those steps, (1, n, H), of its sequence (T, B, H)."""
        T, B, places = loop.T, loop.B, self.places
        earlier = places + B if loop.reverse else places - B
        found = sequence.flatten(0, 1).index_select(0, earlier.clamp(0, T * B - 1))
        samples = places % B
        begins = (earlier < 0) | (earlier >= T * B)
        found = torch.where(begins.unsqueeze(1), loop.states[state].index_select(0, samples), found)
        if loop.restarts is not None and loop.fresh is not None:
            again = loop.restarts.reshape(-1).index_select(0, places)
            found = torch.where(again.unsqueeze(1), loop.fresh[state].index_select(0, samples), found)
        return found.unsqueeze(0)

    def back(self, values: Tensor, like: Tensor) -> Tensor:
        """Rows (1, n, K) in their places of (T, B, K), which ``like`` has the shape of, with zeros in the others."""
        found = values.new_zeros(like.shape)
        found.flatten(0, 1).index_copy_(0, self.places, values[0])
        return found


def live_rows(loop: Sequence) -> LiveRows | None:
    """None where samples have all steps, or so many that the rest isn't worth leaving out."""
    G, H, I = len(loop.cell.x_blocks), loop.H, 0 if loop.input_weight is None else loop.input_weight.shape[1]
    rows, of_a_row = loop.T * loop.B, G * H * (H + 2 * I)
    if loop.live is None or rows * of_a_row < _LEAST:
        return None
    places = loop.live.reshape(-1).nonzero().squeeze(1)
    saved = (rows - len(places)) * of_a_row
    copied = len(places) * (2 * G * H + 3 * H + 2 * I)
    return LiveRows(places) if len(places) and saved >= max(_LEAST, _A_NUMBER * copied) else None

"""A layer in the part of Python that TorchScript reads: layers and directions as loops over lists.

What depends on the cell is generated around it by models/torchscript/model.py: the names of the weights, the form of
the states, and the loop over time. Annotations aren't postponed here, since TorchScript can't read such ones.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ScriptedLayer(nn.Module):
    """What the generated classes share; shapes as in Recurrent's forward."""

    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    batch_first: bool
    dropout: float
    init: list[float]
    state_units: list[int]  # of each state

    def weights(self) -> list[Tensor]:
        """The weights of each layer and direction in turn, in torch.nn's order; generated."""
        raise NotImplementedError

    def direction(
        self,
        x: Tensor,
        states: list[Tensor],
        weights: list[Tensor],
        restarts: Tensor | None,
        fresh: list[Tensor],
        live: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        """One direction of one layer: output (T, B, H) and final states, (B, H) each; generated."""
        raise NotImplementedError

    def run(
        self, x: Tensor, given: list[Tensor], lengths: Tensor | None, resets: Tensor | None, fresh: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The output and the final states; arguments as forward's, with empty lists for states that weren't given."""
        batched = x.dim() == 3
        if not batched and x.dim() != 2:
            raise ValueError(
                f"x must have the shape (T, I), or (T, B, I), with batch_first (B, T, I). Got {list(x.shape)}."
            )
        if x.size(-1) != self.input_size:
            raise ValueError(f"x must have input_size {self.input_size} as its last dimension. Got {x.size(-1)}.")
        if resets is not None and (resets.dtype != torch.bool or list(resets.shape) != list(x.shape)[:-1]):
            raise ValueError("resets must be bool and of x's shape but for features.")
        if resets is None and len(fresh) > 0:
            raise ValueError("reset_state must come with resets. Got reset_state alone.")
        if not batched:
            x = x.unsqueeze(1)
            resets = None if resets is None else resets.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
            resets = None if resets is None else resets.transpose(0, 1)
        T, B = x.size(0), x.size(1)
        if T == 0:
            raise RuntimeError("x must have at least one step. Got T = 0.")
        live: Tensor | None = None
        if lengths is not None:
            if list(lengths.shape) != [B]:
                raise ValueError(f"lengths must have shape ({B},), one for each sample. Got {list(lengths.shape)}.")
            live = torch.arange(T, device=x.device).unsqueeze(1) < lengths.to(x.device)
        states = self.shaped(given, x, batched)
        fresh = states[:0] if resets is None else self.shaped(fresh, x, batched)
        if live is None:
            output, finals = self.stack(x, states, resets, fresh, live)
        else:  # zero times not-a-number is none: see kernels/drivers/padding.py
            some, S = live[0].unsqueeze(1), len(states)
            begin = [torch.where(some, states[s], self.init[s]) for s in range(S)]
            output, ends = self.stack(torch.where(live.unsqueeze(2), x, 0.0), begin, resets, fresh, live)
            finals = [torch.where(some, ends[s], states[s]) for s in range(S)]
        if not batched:
            return output.squeeze(1), [state.squeeze(1) for state in finals]
        if self.batch_first:
            output = output.transpose(0, 1)
        return output, finals

    def shaped(self, given: list[Tensor], x: Tensor, batched: bool) -> list[Tensor]:
        """States as (L * D, B, H) each; the cell's own first values where none are given."""
        rows = 2 * self.num_layers if self.bidirectional else self.num_layers
        found: list[Tensor] = []
        for k, units in enumerate(self.state_units):
            shape = [rows, x.size(1), units]
            if len(given) == 0:
                found.append(torch.full(shape, self.init[k], dtype=x.dtype, device=x.device))
                continue
            state = given[k]
            found.append(state.contiguous() if batched else state.unsqueeze(1).contiguous())
            if list(found[-1].shape) != shape:
                shape = shape if batched else [rows, units]
                raise RuntimeError(f"a state must have shape {shape}. Got {list(state.shape)}.")
        return found

    def stack(
        self, x: Tensor, states: list[Tensor], resets: Tensor | None, fresh: list[Tensor], live: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """All layers: x (T, B, I) -> output (T, B, D * H), final states (L * D, B, H)."""
        return self.layers(x, states, resets, fresh, live)

    def layers(
        self, x: Tensor, states: list[Tensor], resets: Tensor | None, fresh: list[Tensor], live: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """As stack, by the loop of the equations."""
        D = 2 if self.bidirectional else 1
        rows = D * self.num_layers
        weights = self.weights()
        n = len(weights) // rows
        restarts = borders(resets, live)
        finals: list[list[Tensor]] = []
        for first in range(0, rows, D):
            if first > 0:
                x = F.dropout(x, self.dropout, self.training)
            outputs: list[Tensor] = []
            for k in range(first, first + D):
                output, ends = self.direction(
                    x,
                    [state[k] for state in states],
                    weights[k * n : (k + 1) * n],
                    restarts if k == first else turned(restarts),
                    [state[k] for state in fresh],
                    live,
                    k > first,
                )
                outputs.append(output)
                finals.append(ends)
            x = torch.cat(outputs, -1)
        columns: list[Tensor] = []
        for s in range(len(states)):
            columns.append(torch.stack([ends[s] for ends in finals]))
        return x, columns


def borders(resets: Tensor | None, live: Tensor | None) -> Tensor | None:
    """The borders between sequences: resets (T, B) where samples live; steps beyond the end are none."""
    if resets is None or live is None:
        return resets
    return resets & live


def turned(restarts: Tensor | None) -> Tensor | None:
    """The borders on the way back: that between t - 1 and t is crossed on the way into t - 1."""
    if restarts is None:
        return restarts
    return torch.cat([restarts[1:], torch.zeros_like(restarts[:1])])

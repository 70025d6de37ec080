"""GRU-D: values that are missing are filled in by what was seen last, which fades, as the state does, with time.

Source: Z. Che et al., Recurrent Neural Networks for Multivariate Time Series with Missing Values (2018,
arXiv:1606.01865).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gatefuse.kernels.drivers.packing import moved
from gatefuse.kernels.task import live
from gatefuse.models.execution.context import autocast_on
from gatefuse.models.layers.arguments import check_lengths
from gatefuse.models.layers.recurrent import Recurrent


class GRUD(nn.Module):
    """The layer of GRU-D: from values, their mask and the time since each was seen, to states.

    What is missing becomes gamma times the value seen last plus 1 - gamma times the mean; gamma is
    exp(-max(0, w δ + b)) by feature. The values so filled in, beside their mask, are the input of the cell ``gru_d``
    (kernels/cells/gru_d.py), whose state fades in the same way, by a linear function of all times.

    Parameters: ``decay_weight``, ``decay_bias`` (I,), of the values' fading; ``fading.weight`` (H, I) and
    ``fading.bias`` (H,), of the state's; ``rnn``'s are a Recurrent's of 2 * I features. The first two are drawn from
    U(-1/sqrt(I), 1/sqrt(I)), as torch.nn.Linear draws the next two.

    Args:
        input_size: features I.
        hidden_size: units H.
        batch_first: whether sequences are (B, T, ...) instead of (T, B, ...).
        options: further arguments of Recurrent, such as driver, device and dtype; of one layer in one direction.

    Raises:
        ValueError: options name num_layers or bidirectional; and what Recurrent raises.
    """

    def __init__(self, input_size: int, hidden_size: int, batch_first: bool = False, **options: Any):
        super().__init__()
        for name in ("num_layers", "bidirectional"):
            if name in options:
                raise ValueError(f"GRU-D must be one layer in one direction, whose past is known. Got {name}.")
        self.rnn = Recurrent("gru_d", 2 * input_size, hidden_size, batch_first=batch_first, **options)
        where = {name: options[name] for name in ("device", "dtype") if name in options}
        self.fading = nn.Linear(input_size, hidden_size, **where)
        self.decay_weight = nn.Parameter(torch.empty(input_size, **where))
        self.decay_bias = nn.Parameter(torch.empty(input_size, **where))
        for parameter in (self.decay_weight, self.decay_bias):
            nn.init.uniform_(parameter, -(input_size**-0.5), input_size**-0.5)
        self.input_size, self.batch_first = input_size, batch_first

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        elapsed: Tensor,
        mean: Tensor,
        state: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            x: (T, B, I), with batch_first (B, T, I); where mask is false, whatever it holds reaches nothing.
            mask: bool, of x's shape: whether a value was seen.
            elapsed: of x's shape: the time since that feature was seen before, 0 in the first step.
            mean: (I,), of each feature over the training data; it stands for what was never seen.
            state: the first state, (1, B, H); zeros where None.
            lengths: (B,) integers: sample b ends after lengths[b] steps.

        Returns:
            The output, (T, B, H) or batch first, and the final state (1, B, H).

        Raises:
            TypeError: mask is no tensor of bools.
            ValueError: a shape is another, or, while autocast is off, a dtype; and what Recurrent raises.
        """
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask must be a tensor of bools. Got {got}.")
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x must have three dimensions, the last of size {self.input_size}. Got {tuple(x.shape)}.")
        shapes = {"mask": (mask, x.shape), "elapsed": (elapsed, x.shape), "mean": (mean, x.shape[2:])}
        for name, (value, shape) in shapes.items():
            if value.shape != shape:
                raise ValueError(f"{name} must have shape {tuple(shape)}. Got {tuple(value.shape)}.")
        own = self.decay_weight.dtype
        for name, value in (("x", x), ("elapsed", elapsed), ("mean", mean)):
            if value.dtype != own and not (value.dtype.is_floating_point and autocast_on(x.device)):
                raise ValueError(f"{name} must have the weights' dtype {own}. Got {value.dtype}.")
        if lengths is not None:  # zero times not-a-number is none: see kernels/drivers/padding.py
            x, mask, elapsed = self._within(x, mask, elapsed, lengths)
        gamma = torch.exp(-torch.relu(elapsed * self.decay_weight + self.decay_bias))
        last = seen_last(x, mask, mean, 1 if self.batch_first else 0)
        filled = torch.where(mask, x, gamma * last + (1 - gamma) * mean)
        given = torch.cat([filled, mask.to(x.dtype)], 2)
        decay = linear(elapsed, self.fading.weight, self.fading.bias)
        output, final = self.rnn(given, state, lengths=lengths, inputs={"decay": decay})
        return output, final

    def _within(self, x: Tensor, mask: Tensor, elapsed: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros beyond the ends, where nothing was seen."""
        B, T = x.shape[:2] if self.batch_first else x.shape[1::-1]
        within = live(moved(check_lengths(lengths, T, B, x.device), x.device), T)
        within = (within.t() if self.batch_first else within).unsqueeze(2)
        return torch.where(within, x, 0.0), mask & within, torch.where(within, elapsed, 0.0)


def seen_last(x: Tensor, mask: Tensor, mean: Tensor, dim: int) -> Tensor:
    """The value seen last, at each step and of each feature; before the first one the mean."""
    steps = torch.arange(x.shape[dim], device=x.device).view([-1 if k == dim else 1 for k in range(x.dim())])
    place = torch.where(mask, steps, -1).cummax(dim).values if x.shape[dim] else steps.expand(x.shape)
    found = torch.where(mask, x, 0.0).gather(dim, place.clamp(min=0))
    return torch.where(place >= 0, found, mean)

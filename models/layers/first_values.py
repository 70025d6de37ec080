"""What a parameter begins with where a cell says so: a number, or what a function fills it with."""

from __future__ import annotations

import torch
from torch import Tensor

from gatefuse.kernels.equations.parameters import FirstValue


@torch.no_grad()
def fill(name: str, parameter: Tensor, value: FirstValue) -> None:
    """Give a parameter its first values.

    Raises:
        ValueError: the function leaves values as they were, which would be whatever memory held.
    """
    if not callable(value):
        parameter.fill_(value)
        return
    parameter.fill_(torch.nan)
    value(parameter)
    if type(parameter.data) is Tensor and not parameter.is_meta and parameter.isnan().any():
        raise ValueError(
            f"parameter_init of {name} must fill the tensor that it is called with, as torch.nn.init.ones_ does. "
            f"Got {getattr(value, '__name__', type(value).__name__)}, after which it holds values that are no numbers."
        )

"""tf32, the format to which the matrix unit cuts the factors of float32: 10 of the 23 bits behind the point."""

from __future__ import annotations

import torch
from torch import Tensor

_DROPPED = 13  # bits of a float32 that tf32 doesn't have


def rounded(x: Tensor) -> Tensor:
    """A float32 tensor rounded to tf32, as PTX's cvt.rna.tf32.f32 does: to the nearest, halfway cases away from zero.

    The matrix unit would cut the bits off, which errs twice as much and always towards zero. From halfway beyond the
    largest tf32 on it is infinity; not-a-number stays so, of whatever bits, also where cutting would leave infinity.
    """
    # The bits of a float are its sign and, as a number, its magnitude: half a unit is added whatever the sign.
    # Not-a-number becomes the one without any but the highest of the bits behind the point, which no carry leaves.
    found = x.nan_to_num(torch.nan, torch.inf, -torch.inf)
    found.view(torch.int32).add_(1 << (_DROPPED - 1)).bitwise_and_(-1 << _DROPPED)
    return found

"""How float32 may be rounded on a GPU, by torch's settings."""

from __future__ import annotations

import torch

from gatefuse.kernels.constant import constant


@constant
def tf32_allowed() -> bool:
    """Whether recurrent layers in float32 may multiply in tf32, as torch.backends.cudnn has it for its own.

    ``torch.backends.cudnn.allow_tf32`` sets this too, but raises when read after settings by fp32_precision.
    """
    return bool(torch.backends.cudnn.rnn.fp32_precision == "tf32")  # type: ignore[attr-defined]

"""How float32 may be rounded on a GPU, by torch's settings."""

from __future__ import annotations

import torch


def tf32_allowed() -> bool:
    """Whether recurrent layers in float32 may multiply in tf32, as torch.backends.cudnn has it for its own.

    ``torch.backends.cudnn.allow_tf32`` sets this too, but raises when read after settings by fp32_precision.
    """
    return bool(torch.backends.cudnn.rnn.fp32_precision == "tf32")  # type: ignore[attr-defined]


# torch.compile takes the answer of the moment, as torch.compiler.assume_constant_result has it.
tf32_allowed._dynamo_marked_constant = True  # type: ignore[attr-defined]

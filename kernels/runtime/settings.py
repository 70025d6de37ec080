"""Settings of torch's and of the environment that kernels follow."""

from __future__ import annotations

import os
from typing import Any

import torch

from gatefuse.kernels.runtime.dynamo import constant

# Asked for once: on the way to it torch takes longer than for the answer.
_cudnn_rnn: Any = torch.backends.cudnn.rnn


@constant
def tf32_allowed() -> bool:
    """Whether recurrent layers in float32 may multiply in tf32, as torch.backends.cudnn has it for its own.

    ``torch.backends.cudnn.allow_tf32`` sets this too, but raises when read after settings by fp32_precision.
    """
    return bool(_cudnn_rnn.fp32_precision == "tf32")


def precision(dtype: torch.dtype) -> str:
    """How products of float32 are multiplied; in Triton's interpreter all are as in "ieee"."""
    # cuDNN's recurrent layers follow this flag; here it also decides whether the driver runs float32 at all.
    return "tf32" if dtype == torch.float32 and tf32_allowed() else "ieee"


def interpreted() -> bool:
    """Whether Triton's interpreter is on: TRITON_INTERPRET=1 when Triton was first imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")

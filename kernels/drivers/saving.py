"""What autograd saves for a backward, and who keeps it."""

from __future__ import annotations

import torch


def saved_elsewhere() -> bool:
    """Whether somebody keeps what autograd saves elsewhere, or not at all: torch.utils.checkpoint, save_on_cpu."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None

"""What a device can hold: shared memory and programs that run at once, read off the device itself."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

# Bytes a program may have, as CUDA's tables of compute capabilities give them; for devices that torch can't ask.
SHARED_BYTES = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "sm_120": 101_376}


class Limits(NamedTuple):
    """shared: bytes of shared memory that one program may have; programs: multiprocessors."""

    shared: int
    programs: int


@cache
def limits(device: torch.device) -> Limits:
    """The limits of a CUDA or ROCm device; of a CPU, where kernels are compiled ahead or interpreted, an H100's."""
    if device.type == "cpu":
        return Limits(SHARED_BYTES["sm_90"], 132)
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 0) or properties.shared_memory_per_block
    return Limits(shared, properties.multi_processor_count)

"""What a device can hold: shared memory and programs that run at once, read off the device itself."""

from __future__ import annotations

from contextvars import ContextVar
from functools import cache
from typing import NamedTuple

import torch

from gatefuse.kernels.runtime.dynamo import constant

# Bytes a program may have, as CUDA's tables of compute capabilities give them; for devices that torch can't ask.
SHARED_BYTES = {"sm_80": 166_912, "sm_86": 101_376, "sm_89": 101_376, "sm_90": 232_448, "sm_120": 101_376}


# Multiprocessors of the smallest part in use with that capability: A100, RTX 3090, RTX 4090, H100 SXM, RTX 5090.
_PROGRAMS = {"sm_80": 108, "sm_86": 82, "sm_89": 128, "sm_90": 132, "sm_120": 170}


class Limits(NamedTuple):
    """shared: bytes of shared memory that one program may have; programs: multiprocessors."""

    shared: int
    programs: int


# What kernels are compiled for, where the GPU need not be there; see launcher.compile_only.
assumed: ContextVar[str] = ContextVar("assumed", default="sm_90")


@constant
def limits(device: torch.device) -> Limits:
    """The limits of a CUDA or ROCm device; of a CPU, where kernels are compiled ahead or interpreted, those of the GPU
    that they are compiled for, or else of an H100."""
    return of_arch(assumed.get()) if device.type == "cpu" else _read(device)


def of_arch(arch: str) -> Limits:
    """The limits of a GPU that isn't there, by its architecture, ``sm_90``; of one that isn't listed, small ones."""
    return Limits(SHARED_BYTES.get(arch, 65_536), _PROGRAMS.get(arch, 132))


@cache
def _read(device: torch.device) -> Limits:
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 0) or properties.shared_memory_per_block
    return Limits(shared, properties.multi_processor_count)

"""Limits of a device, read off it: shared memory, and programs that run at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.runtime.dynamo import constant
from gatefuse.kernels.runtime.gpus import gpu


class Limits(NamedTuple):
    """A device's limits: bytes of shared memory that one program may have; programs at once, one a multiprocessor.

    groups: its matrix instructions are those of Hopper, of four warps together.
    """

    shared: int
    programs: int
    groups: bool = False


# What kernels are compiled for, where the GPU need not be there; see launcher.compile_only.
assumed: ContextVar[str] = ContextVar("assumed", default="sm_90")


@constant
def limits(device: torch.device) -> Limits:
    """The limits of a CUDA or ROCm device; of a CPU, where kernels are compiled ahead or interpreted, those of the GPU
    that they are compiled for, or else of an H100."""
    return of_arch(assumed.get()) if device.type == "cpu" else _read(device)


_HERE = nullcontext()


def current(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which x's device is the current one, where kernels are launched."""
    if x.is_cpu or (x.is_cuda and x.get_device() == torch.cuda.current_device()):
        return _HERE
    return torch.cuda.device_of(x)


@cache
def of_arch(arch: str) -> Limits:
    """The limits of a GPU that isn't there, by its architecture, ``sm_90``; of one that isn't listed, small ones."""
    return Limits(*gpu(arch)[:2], arch == "sm_90")


@cache
def _read(device: torch.device) -> Limits:
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 0) or properties.shared_memory_per_block
    return Limits(shared, properties.multi_processor_count, not torch.version.hip and properties.major == 9)

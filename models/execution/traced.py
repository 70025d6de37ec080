"""Who runs what torch.jit.trace records of a layer."""

from __future__ import annotations

import warnings

import torch

from gatefuse.kernels.drivers import driver
from gatefuse.kernels.task import Request


def by_trace(name: str, request: Request) -> str:
    """Who runs a call that torch.jit.trace records: a loop of TorchScript's, which is one for any number of steps."""
    if not (why := driver("script").refusal(request)):
        return "script"
    if request.T != 1:
        warnings.warn(
            f"a layer that torch.jit.trace can keep for any number of steps must have a loop of TorchScript's. "
            f"Got one for {request.T} steps alone: {why}.",
            torch.jit.TracerWarning,
            stacklevel=2,
        )
    return name

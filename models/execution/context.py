"""What is at work around a call: torch.func's transforms and forward-mode differentiation, autocast, an export.

Within a transform every layer runs its equations as written. Transforms work by looking at each operator. torch's own
loops and gatefuse's kernels are one operator for all steps, for which they have no rule; the Python loop is made of
operators that they know.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

from gatefuse.kernels.drivers import DRIVERS
from gatefuse.kernels.plan import Plan
from gatefuse.kernels.runtime.dynamo import constant

PLAN = Plan(
    "eager",
    "a transform of torch.func or forward-mode differentiation is at work, which needs the equations themselves",
    dict.fromkeys((name for name in DRIVERS if name != "eager"), "no transform can look into it"),
)


@constant
def transforming() -> bool:
    """Whether vmap, another transform of torch.func, or forward-mode differentiation is at work around this call.

    torch.compile, which can't look into it, takes the answer of the moment; its graphs are for one stack of transforms.
    """
    # torch has no public way to ask. The first is functorch's own record of the transforms that it is within, None
    # outside of all; the second is -1 outside of dual_level.
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def autocast_on(device: torch.device) -> bool:
    """Whether autocast is on for tensors of that device; meta, which has none, is not asked."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def exporting() -> bool:
    """torch.compiler.is_exporting(), which in torch 2.11 says yes within torch.compile too."""
    return torch.compiler._is_exporting_flag

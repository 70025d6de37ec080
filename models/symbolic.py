"""What torch.fx records of a layer: one call, as of torch.nn's layers, into which it doesn't look."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy


def recorded(module: nn.Module, input: Proxy, state: Any, **additions: Any) -> Proxy:
    """The node of a call of module, for what it is in the traced model; without arguments that have their default."""
    tracer: Any = input.tracer
    args = (input,) if state is None else (input, state)
    given = {name: value for name, value in additions.items() if value is not None and value is not False}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, given)

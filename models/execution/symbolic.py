"""What torch.fx records of a layer: one call, as of torch.nn's layers, into which it doesn't look."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

_HOLDERS = (tuple, list, PackedSequence)


def proxy_among(*arguments: Any) -> Proxy | None:
    """The first of the arguments, or of what a tuple or list among them holds, that stands for a value of torch.fx's;
    None where nothing does."""
    for argument in arguments:
        if isinstance(argument, Proxy):
            return argument
        if isinstance(argument, _HOLDERS) and (found := proxy_among(*argument)) is not None:
            return found
    return None


def recorded(proxy: Proxy, module: nn.Module, input: Any, state: Any, **additions: Any) -> Any:
    """The node of a call of module, for what it is in the traced model; without arguments that have their default."""
    tracer: Any = proxy.tracer
    args = (input,) if state is None else (input, state)
    given = {name: value for name, value in additions.items() if value is not None and value is not False}
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, given)

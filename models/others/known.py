"""The layers of other packages that accelerate knows: which it exchanges, and which it leaves, and why."""

from __future__ import annotations

from torch import nn

from gatefuse.models.others import speechbrain, xlstm
from gatefuse.models.others.counterpart import Counterpart

_COUNTERPARTS = (*speechbrain.COUNTERPARTS, *xlstm.COUNTERPARTS)
_LEFT = xlstm.LEFT


def pairs() -> dict[type[nn.Module], type[nn.Module]]:
    """Each class of a package that is imported now, and what it becomes."""
    found = [(each, each.theirs()) for each in _COUNTERPARTS]
    return {theirs: each.ours(theirs) for each, theirs in found if theirs is not None}


def refusal(module: nn.Module, driver: str) -> str | None:
    """Why a layer of another package must stay as it is, "" where it may be changed; None of any other module."""
    kind = type(module)
    if why := _LEFT.get(f"{kind.__module__}.{kind.__qualname__}"):
        return why
    found = _of(kind)
    if found is None:
        return None
    if driver == "vendor":
        return "torch's own loops, which driver vendor is, are of torch.nn's layers alone"
    return found.refusal(module)


def _of(kind: type) -> Counterpart | None:
    for each in _COUNTERPARTS:
        theirs = each.theirs()
        if theirs is not None and issubclass(kind, theirs):
            return each
    return None

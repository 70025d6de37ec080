"""Functions that torch.compile calls while it traces, instead of reading them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


def constant(function: _F) -> _F:
    """A decorator: a compiled program has the answer of the moment, for arguments that are constants.

    As torch.compiler.assume_constant_result, but for the import of the compiler, which takes seconds.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function

"""What a layer of another package becomes: a class derived from its own, with one method that runs gatefuse's loop.

The layer keeps its parameters, their names, its forward and all that it does around the time loop. What the loop
computes was compared with the package's code; where that code is another one now, the layer is left.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Counterpart:
    """A layer's class in its package, and what it becomes.

    Attributes:
        module, name: where the package has the class.
        release: the package and the version of it that was compared, for people.
        code: what was compared, as names in ``module``, or below another module where they have a colon.
        digest: of that code.
        methods: a class with the methods that run in the place of the package's; its ``unlike(layer)`` says why a layer
            as it is now must run the package's own, or "".
    """

    module: str
    name: str
    release: str
    code: tuple[str, ...]
    digest: str
    methods: type

    def theirs(self) -> type[nn.Module] | None:
        """The package's class; None where nobody has imported it."""
        return getattr(sys.modules.get(self.module), self.name, None)

    def loaded(self) -> type[nn.Module]:
        """The counterpart, of a package that is imported for it: what a pickle asks for."""
        return self.ours(getattr(import_module(self.module), self.name))

    def ours(self, theirs: Any) -> type[nn.Module]:
        """The counterpart of the package's class, always the same one."""
        return _derived(self.methods, theirs)

    def refusal(self, layer: nn.Module) -> str:
        """Why this layer must stay as it is; "" where its loop may be exchanged."""
        if digest([self._function(name) for name in self.code]) != self.digest:
            return f"the code of its time loop is another than that of {self.release}, with which gatefuse was compared"
        return self.methods.unlike(layer)  # type: ignore[attr-defined]

    def _function(self, name: str) -> Any:
        module, _, path = name.rpartition(":")
        found: Any = sys.modules.get(module or self.module)
        for part in path.split("."):
            found = getattr(found, part, None)
        return found


@cache
def _derived(methods: type, theirs: type) -> type[nn.Module]:
    own = {"__module__": methods.__module__, "__qualname__": theirs.__qualname__, "__doc__": theirs.__doc__}
    return type(theirs.__name__, (methods, theirs), own)


def digest(functions: list[Any]) -> str:
    """A digest of the functions' source, whatever blanks it has; "" where one has none that can be read."""
    text = []
    for function in functions:
        try:
            text.append(_source(function))
        except (OSError, TypeError):
            return ""
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


@cache
def _source(function: Callable[..., Any]) -> str:
    return " ".join(inspect.getsource(function).split())


def watched(module: nn.Module) -> bool:
    """Whether a module's call is seen or replaced by somebody: hooks on it, or a forward of its own."""
    own = vars(module)
    seen = any(value for name, value in own.items() if name.endswith(("forward_hooks", "pre_hooks", "backward_hooks")))
    return seen or "forward" in own


def plain(*tensors: Tensor | None) -> bool:
    """Whether these are torch's own tensors, of which operators are not overridden."""
    return all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)

"""Modules by the names that they had before they moved, where documentation or programs of others use them.

An import of an old name gives the module.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "gatefuse.kernels.operators": "gatefuse.kernels.equations.operators",
    "gatefuse.models.layer_ops": "gatefuse.models.execution.operators",  # imported for its operators alone
    "gatefuse.models.stack": "gatefuse.models.layers.base",
    "gatefuse.models.text": "gatefuse.models.language.text",
    "gatefuse.models.corpus": "gatefuse.models.language.corpus",
    "gatefuse.models.training": "gatefuse.models.language.training",
    "gatefuse.models.checkpoint": "gatefuse.models.language.checkpoint",
}


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(MOVED[spec.name])
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # which the import of the old name has replaced


def offer() -> None:
    """Let the old names be found."""
    sys.meta_path.append(_Moved())

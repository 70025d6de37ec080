"""Generated Python text made into functions, whose source tracebacks and compilers can read."""

from __future__ import annotations

import linecache
from typing import Any
from weakref import finalize


def defined(text: str, file: str, namespace: dict[str, Any], owner: object) -> dict[str, Any]:
    """The namespace with what the text defines in it.

    Args:
        file: a made-up name, under which linecache keeps the text for as long as the owner lives.
    """
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    finalize(owner, linecache.cache.pop, file, None)
    # Without this module's postponed annotations, which TorchScript can't read.
    exec(compile(text, file, "exec", dont_inherit=True), namespace)
    return namespace

"""A GPU that a fault has broken: after an illegal access, every call to it fails for as long as the process lives.

What such a process says of anything that it runs later is worthless. It therefore ends, with a status of its own, and
another goes on without what broke the device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

# The exit status of a run of pytest that ended so, and what it says then.
STATUS = 70
SAID = "the device answers no more"


class BrokenError(Exception):
    """After ``name`` the device answers no more; ``error`` is what was raised there."""

    def __init__(self, name: str, error: Exception):
        super().__init__(f"after {name} {SAID}: {type(error).__name__}: {error}")
        self.name, self.error = name, error


def answer() -> Exception | None:
    """The error with which the device answers every call, None where it works; nothing where CUDA was not begun."""
    if not torch.cuda.is_initialized():
        return None
    found: Exception | None = None
    for _ in range(2):  # the error of a capture, or of a launch that was refused, comes back once alone
        try:
            torch.cuda.synchronize()
        except Exception as error:
            found = error
        else:
            return None
    return found


def blame(name: str, error: Exception | None = None) -> None:
    """To be called once ``name`` has raised, or swallowed, an error.

    Raises:
        BrokenError: the device answers no more.
    """
    if found := answer():
        raise BrokenError(name, error or found) from error


class Watch:
    """The plugin that ends a run of pytest after the test that broke the device, its failure reported."""

    def __init__(self) -> None:
        self._broken = False

    def pytest_exception_interact(self, node: Any) -> None:
        if found := answer():
            node.session.shouldstop = f"{SAID}: {type(found).__name__}"
            self._broken = True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._broken:
            session.exitstatus = STATUS

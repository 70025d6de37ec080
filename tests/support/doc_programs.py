"""The programs in a page of documentation: run in order in one namespace, and held to what they say they print."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# A call that is a line of its own, with what it prints, or the first line of that, behind it.
_PRINTS = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)
# What is generated is shown, not run.
GENERATED = "@triton.jit"


def programs(page: Path) -> list[str]:
    """The text of each block of Python on the page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def run(page: Path) -> dict[str, Any]:
    """Run all programs of the page and return their names.

    Raises:
        AssertionError: one prints something else than the comment behind the call says.
    """
    names: dict[str, Any] = {"__name__": page.stem}
    for number, program in enumerate(programs(page), 1):
        if program.startswith(GENERATED):
            continue
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            place = f"{page.name}, program {number}"
            # TorchScript reads the source of what it scripts
            linecache.cache[place] = len(program), None, program.splitlines(keepends=True), place
            exec(compile(program, place, "exec"), names)
        lines = iter(said.getvalue().splitlines())
        for promised in _PRINTS.findall(program):
            found = f"{page.name}, program {number} must print {promised!r}. Got\n{said.getvalue()}"
            assert promised in lines, found
    return names

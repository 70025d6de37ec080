"""What pages say of cells and operators, read off these; who can run a cell is what the drivers answer.

    python docs/tables.py

writes it between its marks, as `make docs` does before it builds the site; a test compares.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from gatefuse.bench.report.document.marks import fill, marks
from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import cell_names, find_cell
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.equations import operators
from gatefuse.kernels.plan import choose
from gatefuse.kernels.runtime.device import of_arch
from gatefuse.kernels.task import Request

# A call that asks for nothing special, of a size for which every driver has room.
T, B, H = 35, 32, 64
CPU, GPU = (torch.device("cpu"), torch.float32), (torch.device("cuda", 0), torch.float16)
ARCH = "sm_90"


def parts(page: Path) -> dict[str, str]:
    """What is generated for a page, by the names of the marks that it holds."""
    text = page.read_text(encoding="utf-8")
    # a blank line, without which a comment's line and what follows are one paragraph for some readers
    return {name: f"\n{make()}\n\n" for name, make in PARTS.items() if marks(name)[0] in text}


def write(folder: Path) -> list[Path]:
    """Write what is generated into the pages of a folder that hold marks for it."""
    return [fill(page, parts(page)) for page in sorted(folder.rglob("*.md")) if parts(page)]


@contextmanager
def made_up_gpu() -> Iterator[None]:
    """Drivers are asked as on a machine with that GPU and Triton, its interpreter off, whatever this one has, and with
    a CPU that nobody has measured."""
    with (
        mock.patch("gatefuse.kernels.costs.cpu_name", return_value="a CPU"),
        mock.patch("gatefuse.kernels.runtime.device._read", return_value=of_arch(ARCH)),
        mock.patch("gatefuse.kernels.drivers.common._HAS_TRITON", True),
        mock.patch("gatefuse.kernels.drivers.common.interpreted", return_value=False),
    ):
        yield


def request(cell: Cell, where: tuple[torch.device, torch.dtype]) -> Request:
    """A training call of that cell on that device in that dtype."""
    return Request(cell, *where, T, B, H, needs_grad=True)


def refusals(cell: Cell, where: tuple[torch.device, torch.dtype]) -> dict[str, str]:
    """Each driver's answer: why it can't run the call, "" where it can."""
    with made_up_gpu():
        return {name: driver(name).refusal(request(cell, where)) for name in DRIVERS}


def auto(cell: Cell) -> str:
    """The driver that auto takes on a CPU."""
    with made_up_gpu():
        return choose(request(cell, CPU)).driver


def table() -> str:
    """A row for each shipped cell."""
    described = "gates", "states", "parameters", "products in a row"
    head = ("cell", *described, "drivers on a CPU", "drivers on a GPU", "inputs")
    rows = [head, ("---",) * len(head)]
    for name in cell_names():
        cell = find_cell(name)
        able = [[k for k, why in refusals(cell, where).items() if not why] for where in (CPU, GPU)]
        on_cpu = ", ".join(f"**{k}**" if k == auto(cell) else k for k in able[0])
        names = map(_names, (cell.gates, cell.states, cell.parameters))
        rows.append(
            (f"[`{name}`](#{name})", *names, str(cell.program.stages), on_cpu, ", ".join(able[1]), _names(cell.inputs))
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def everywhere() -> str:
    """The answers that are the same for all cells, and so are about the device."""
    return "\n".join(f"- not `{name}` on a CPU: {why}." for name, why in _common().items())


def _common() -> dict[str, str]:
    first, *others = [refusals(find_cell(name), CPU) for name in cell_names()]
    return {name: why for name, why in first.items() if why and all(other[name] == why for other in others)}


def details() -> str:
    """A section for each shipped cell: its equations as they are run, where they are from, who can't run them."""
    return "\n\n".join("\n\n".join(_section(find_cell(name))) for name in cell_names())


def _section(cell: Cell) -> Iterator[str]:
    yield f"### {cell.name}"
    yield f"{cell.__doc__}."
    yield f"```py\n{inspect.getsource(cell.equations).strip()}\n```"
    about = inspect.getdoc(sys.modules[cell.__module__]) or ""
    yield f"*Source*: {' '.join(about.partition('Source: ')[2].split())}"
    asked = refusals(cell, GPU) | refusals(cell, CPU)
    yield "\n".join(f"- not `{name}`: {why}." for name, why in asked.items() if why and name not in _common())


def operators_list() -> str:
    """The operators that kernels can be made of, by their names in ATen."""
    return _names(tuple(operators.operator_names()))


def _names(names: tuple[str, ...]) -> str:
    return " ".join(f"`{name}`" for name in names) or "none"


PARTS: dict[str, Callable[[], str]] = {
    "cells": table,
    "refusals": everywhere,
    "equations": details,
    "operators": operators_list,
}

if __name__ == "__main__":
    for page in write(Path(__file__).parent):
        print(page)

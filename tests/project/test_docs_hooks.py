"""What `make docs` generates: the table of cells, and links between the repository's folders."""

from __future__ import annotations

import importlib.util
import inspect
import re

import pytest

from gatefuse import cell_names, find_cell
from gatefuse.kernels.plan import explain
from tests.support.doc_programs import ROOT


def load(name):
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cells, repository = load("cells"), load("repository")


def rows():
    """The table's cells, by name."""
    split = [[part.strip() for part in line.strip("|").split("|")] for line in cells.table().splitlines()]
    return {re.findall(r"`(\w+)`", row[0])[0]: row for row in split[2:]}


def test_each_shipped_cell_has_a_row():
    assert list(rows()) == list(cell_names())
    for name, row in rows().items():
        cell = find_cell(name)
        gates, states, parameters = (tuple(re.findall(r"`(\w+)`", text)) for text in row[1:4])
        assert (gates, states, parameters) == (cell.gates, cell.states, cell.parameters)


@pytest.mark.parametrize("name", cell_names())
def test_the_drivers_are_the_plans(name):
    row = rows()[name]
    for where, text in ((cells.CPU, row[5]), (cells.GPU, row[6])):
        with cells.made_up_gpu():
            request = cells.request(find_cell(name), where)
            plan = explain(request, "auto" if where == cells.CPU else "eager")
        able = {driver for driver in cells.DRIVERS if driver not in plan.refused}
        assert set(text.replace("*", "").split(", ")) == able
        if where == cells.CPU:
            assert re.findall(r"\*\*(\w+)\*\*", text) == [plan.driver]


def test_the_page_shows_equations_sources_and_refusals():
    page = cells.on_page_markdown((ROOT / "docs" / "cells.md").read_text(encoding="utf-8"))
    assert "<!--" not in page
    for name in cell_names():
        assert inspect.getsource(find_cell(name).equations).strip() in page
    assert page.count("*Source*: ") == len(cell_names())
    assert "*Source*: \n" not in page
    assert "- not `vendor`: torch has no loop for the cell slstm." in page
    assert "- not `step` on a CPU: its kernels need a GPU" in page


def test_every_mark_is_used():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    for mark in cells.MARKS:
        assert mark in pages


def test_links_hold_in_the_site():
    relink = repository.relink
    assert relink("[a](../reports/clients.md)", "parity.md") == "[a](reports/clients.md)"
    assert relink("[a](docs/kernels.md#x)", "CONTRIBUTING.md") == "[a](kernels.md#x)"
    assert relink("[a](cpu/quick.md)", "reports/README.md") == "[a](cpu/quick.md)"
    assert relink("![a](quick-step.svg)", "reports/cpu/quick.md") == "![a](quick-step.svg)"
    assert relink("[a](cells.md) [b](#c) [d](https://e.f)", "reference/layers.md").startswith("[a](cells.md) [b](#c)")


def test_reports_and_their_plots_are_part_of_the_site():
    found = repository.outside()
    for path in (ROOT / "reports").rglob("*.svg"):
        assert path.relative_to(ROOT).as_posix() in found
    assert "reports/cpu/quick.md" in found
    assert "CONTRIBUTING.md" in found

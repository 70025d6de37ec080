"""What `make docs` generates: the tables of cells, and links between the repository's folders."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shutil
import sys

import pytest

from gatefuse import cell_names, find_cell
from gatefuse.kernels.plan import explain
from tests.support.doc_programs import ROOT

DOCS = ROOT / "docs"


def load(path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables, repository = load(DOCS / "tables.py"), load(DOCS / "hooks" / "repository.py")


def rows():
    """The table's cells, by name."""
    split = [[part.strip() for part in line.strip("|").split("|")] for line in tables.table().splitlines()]
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
    for where, text in ((tables.CPU, row[5]), (tables.GPU, row[6])):
        with tables.made_up_gpu():
            request = tables.request(find_cell(name), where)
            plan = explain(request, "auto" if where == tables.CPU else "eager")
        able = {driver for driver in tables.DRIVERS if driver not in plan.refused}
        assert set(text.replace("*", "").split(", ")) == able
        if where == tables.CPU:
            assert re.findall(r"\*\*(\w+)\*\*", text) == [plan.driver]


@pytest.mark.skipif(sys.platform != "linux", reason="the pages say who can run a cell on Linux")
def test_pages_hold_what_is_generated_as_it_is_now(tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    written = [page.relative_to(tmp_path) for page in tables.write(tmp_path / "docs")]
    assert [page.name for page in written] == ["cells.md", "own_cell.md"]
    for page in written:
        now, held = ((folder / page).read_text(encoding="utf-8") for folder in (tmp_path, ROOT))
        assert held == now, f"{page} is out of date: python docs/tables.py writes it anew"


def test_a_page_without_its_table_is_seen(tmp_path):
    """The mark of an end alone, or one of a table in the form that only a build would fill."""
    page = tmp_path / "page.md"
    page.write_text("<!-- cells:start -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^page.md must hold <!-- cells:start --> and <!-- cells:end --> once each"):
        tables.write(tmp_path)
    for path in DOCS.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        for comment in re.findall(r"<!--.*?-->", text):
            assert re.fullmatch(r"<!-- [\w ]+:(start|end) -->", comment), f"{path.name}: {comment}"
        for name in re.findall(r"<!-- ([\w ]+):start -->", text):
            part = text.partition(f"<!-- {name}:start -->")[2].partition(f"<!-- {name}:end -->")[0]
            assert part.strip(), f"{path.name} has nothing between its marks of {name}"


def test_the_page_shows_equations_sources_and_refusals():
    page = (DOCS / "cells.md").read_text(encoding="utf-8")
    for name in cell_names():
        assert inspect.getsource(find_cell(name).equations).strip() in page
    assert page.count("*Source*: ") == len(cell_names())
    assert "*Source*: \n" not in page
    assert "- not `vendor`: torch has no loop for the cell slstm." in page
    assert "- not `step` on a CPU: its kernels need a GPU" in page


def test_every_part_is_used():
    pages = "".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    for name in tables.PARTS:
        assert f"<!-- {name}:start -->" in pages


def test_links_hold_in_the_site():
    relink = repository.relink
    assert relink("[a](../reports/clients.md)", "parity.md") == "[a](reports/clients.md)"
    assert relink("[a](docs/kernels.md#x)", "CONTRIBUTING.md") == "[a](kernels.md#x)"
    assert relink("[a](cpu/quick.md)", "reports/README.md") == "[a](cpu/quick.md)"
    assert relink("![a](quick-step.svg)", "reports/amd-epyc-2-threads/quick.md") == "![a](quick-step.svg)"
    assert relink("[a](cells.md) [b](#c) [d](https://e.f)", "reference/layers.md").startswith("[a](cells.md) [b](#c)")


def test_reports_and_their_plots_are_part_of_the_site():
    found = repository.outside()
    for path in (ROOT / "reports").rglob("*.svg"):
        assert path.relative_to(ROOT).as_posix() in found
    assert "reports/amd-epyc-2-threads/quick.md" in found
    assert "CONTRIBUTING.md" in found

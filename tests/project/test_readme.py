"""The README's programs run, and what it names exists."""

from __future__ import annotations

import re

from gatefuse import cell_names
from gatefuse.bench.report import readme
from gatefuse.bench.report.document.marks import marks
from tests.support.doc_programs import ROOT, programs

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_programs_run_and_give_the_shapes_they_say(capsys):
    names: dict = {}
    model, own, papers, borders = programs(ROOT / "README.md")
    exec(model, names)
    assert capsys.readouterr().out.splitlines()[0] in model
    assert names["output"].shape == (35, 32, 256)
    exec(own, names)
    assert names["output"].shape == (35, 32, 512)
    assert names["h_n"].shape == (4, 32, 256)
    plan = names["layer"].plan(names["torch"].zeros(35, 32, 28))
    assert str(plan).startswith(f"{plan.driver}: ")
    exec(papers, names)
    assert names["output"].shape == (35, 32, 256)
    assert names["layer"].plan(names["torch"].zeros(35, 32, 28), inputs={"age": names["torch"].zeros(35, 32)})
    assert names["xlstm"].weight_hh_l0.shape == (1024, 64)
    exec(borders, names)
    assert names["output"].shape == (35, 32, 256)
    assert names["c_n"].shape == (1, 32, 256)
    assert re.match(r"\w+: ", capsys.readouterr().out)


def test_table_names_the_shipped_cells():
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(cell_names())


def test_links_and_commands_exist():
    documents = {"README.md": README, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, text in documents.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), f"{name} links to {target}"
        for goal in re.findall(r"^    make (\w+)", text, flags=re.MULTILINE):
            assert re.search(rf"^{goal}:", makefile, flags=re.MULTILINE), f"{name} says make {goal}"


def test_places_for_figures_are_marked():
    places = [README.index(mark) for part in (readme.HEADLINE, readme.REPORT) for mark in marks(part)]
    assert places == sorted(places)

"""The documentation: its programs run, its links lead somewhere, and it leaves nothing public out."""

from __future__ import annotations

import dataclasses
import inspect
import re
from importlib import import_module

import pytest

import gatefuse
from bench.suite.sweeps import SWEEPS
from gatefuse.kernels.drivers import DRIVERS
from tests.support.doc_programs import GENERATED, ROOT, programs, run
from tests.support.exported import needs

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TORCHS = ("device", "dtype", "generator")  # arguments that mean what they mean in torch
WRITES = ("export.md", "deployment.md")
IDS = [page.relative_to(DOCS).as_posix() for page in PAGES]


# torch's exporter to ONNX uses what torch has deprecated
@pytest.mark.filterwarnings("ignore:.isinstance\\(treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("page", [p for p in PAGES if programs(p)], ids=lambda page: page.name)
def test_programs_run_and_print_what_they_say(page, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    if page.name in WRITES:  # where others read ours
        monkeypatch.chdir(tmp_path)
    if page.name == "export.md":
        needs("gcc")
    if page.name == "deployment.md":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    run(page)


def test_what_is_shown_as_generated_is():
    shown = [(page.name, text) for page in PAGES for text in programs(page) if text.startswith(GENERATED)]
    assert shown
    sources = [gatefuse.source(cell) for cell in gatefuse.cell_names()]
    for name, text in shown:
        assert any(text.strip() in source for source in sources), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor and "gatefuse." not in anchor:  # those are made of docstrings, and `make docs` looks for them
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}, target


def test_the_menu_has_every_page():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in IDS:
        assert re.search(rf"[ :-] {re.escape(name)}$", menu, flags=re.MULTILINE), f"{name} is not in mkdocs.yml"


def reference():
    """What the reference shows, by its full name."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    return re.findall(r"^::: (\S+)$", pages, flags=re.MULTILINE)


def test_the_reference_has_every_public_name_once():
    names = reference()
    assert len(names) == len(set(names))
    public = {f"gatefuse.{name}" for name in gatefuse.__all__} - {"gatefuse.__version__"}
    assert public <= set(names)


@pytest.mark.parametrize("name", reference())
def test_what_the_reference_shows_exists_and_is_documented(name):
    module, _, attribute = name.rpartition(".")
    found = getattr(import_module(module), attribute)
    assert (found.__doc__ or "").strip(), name


@pytest.mark.parametrize("name", reference())
def test_every_argument_is_described(name):
    """Below Args, or in the first words, as ``tokens (T, B)``."""
    module, _, attribute = name.rpartition(".")
    found = getattr(import_module(module), attribute)
    written = inspect.isfunction(found) or "__init__" in vars(found) or dataclasses.is_dataclass(found)
    if not written or issubclass(found if inspect.isclass(found) else int, tuple):
        return
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [p.name for p in inspect.signature(found).parameters.values() if p.kind not in kinds]
    missing = [name for name in names if name not in TORCHS and not re.search(rf"\b{name}\b", found.__doc__)]
    assert not missing, f"{name} says nothing of {', '.join(missing)}"


def test_every_driver_and_sweep_is_explained():
    for page, names in (("how_it_works.md", DRIVERS), ("measuring.md", SWEEPS)):
        text = (DOCS / page).read_text(encoding="utf-8")
        for name in names:
            assert f"| `{name}` |" in text, f"{page} says nothing of {name}"


def test_there_are_no_figures_that_could_be_typed():
    """Times and speed-ups stand in reports, which are written from rows; seeds.md quotes what others published."""
    for page in PAGES:
        if page.name == "seeds.md":
            continue
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"\b\d[\d.,]*(x\b| tokens/s|\s?(us|ms) a step)", text), page.name

"""The tree of folders in CONTRIBUTING.md is the one that is there, and no folder or file outgrows its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from gatefuse import _moved

ROOT = Path(__file__).resolve().parents[2]
# one concept a file; tests and tables of data may be longer
LINES = 300
FILES = 15
MANY_ALIKE = {"kernels/cells"}  # a file each


def drawn() -> set[str]:
    """The folders of the tree, as paths."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = text.split("## Where things are", 1)[1].split("\n\nA call", 1)[0]
    found, above = set(), {}
    for line in block.splitlines():
        if row := re.match(r"^    ( *)([\w/]+)/ {2,}\S", line):
            depth = len(row[1]) // 2
            above[depth] = row[2] if not depth else f"{above[depth - 1]}/{row[2]}"
            found.add(above[depth])
    return found


def folders(top: str) -> set[str]:
    """Folders that hold modules, with the one above them."""
    return {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / top).rglob("*.py")}


def test_the_tree_is_true():
    tree = drawn()
    assert {path for path in tree if not (ROOT / path).is_dir()} == set()
    there = {folder for top in ("kernels", "models", "bench") for folder in folders(top)}
    assert there - tree == set()


def test_tests_lie_as_what_they_test():
    known = {"tests", "tests/project", "tests/support"}
    # The finest rooms are the tests' own: support/ and the layers have too many for one.
    known |= {"tests/support/kernels", "tests/models/layers/cells", "tests/models/layers/torch_nn"}
    for folder in folders("tests") - known:
        assert (ROOT / folder.removeprefix("tests/")).is_dir(), folder


def test_files_hold_one_concept():
    long = {}
    for top in ("kernels", "models", "bench"):
        for path in (ROOT / top).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LINES:
                long[path.relative_to(ROOT).as_posix()] = lines
    assert long == {}


def test_folders_hold_few_files():
    full = {}
    for folder in set().union(*map(folders, ("kernels", "models", "bench", "tests"))) - MANY_ALIKE:
        if (files := sum(path.name != "__init__.py" for path in (ROOT / folder).glob("*.py"))) > FILES:
            full[folder] = files
    assert full == {}


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for top in ("kernels", "models", "bench"):
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(("gatefuse", *path.relative_to(ROOT).with_suffix("").parts))
            found[name.removesuffix(".__init__")] = path
    return found


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a module imports, at whatever time, but for the types' sake."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for block in [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]:
        block.body.clear()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield from (each for each in (f"{source}.{alias.name}", source) if each in known and each != name)


def test_no_circle_of_imports():
    known = modules()
    # A package's own name stands for its __init__, which every import of what is in it runs; it is what it imports.
    graph = {name: set(imported(name, path, known)) for name, path in known.items()}
    for name, sources in graph.items():
        graph[name] = {s for s in sources if not name.startswith(f"{s}.")}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("old", _moved.MOVED)
def test_modules_are_found_by_their_old_names(old):
    module = import_module(old)
    assert module is import_module(_moved.MOVED[old])
    assert module.__spec__ is not None
    assert module.__spec__.name == _moved.MOVED[old]

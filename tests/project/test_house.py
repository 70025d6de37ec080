"""The tree of folders in CONTRIBUTING.md is the one that is there, and no folder or file outgrows its name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# one concept a file; tests and tables of data may be longer
LINES = 300


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

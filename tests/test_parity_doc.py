"""docs/parity.md: every row has a verdict and names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "parity.md"
HEAD = ("argument or behaviour", "behaviour", "---")


def rows():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    found = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return [row for row in found if row[0] not in HEAD]


@cache
def named_in(path):
    """Names of the test functions of a file, read and not run."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_rows_are_whole():
    assert len(rows()) > 50
    for row in rows():
        assert len(row) == 4, row
        assert row[2] in ("same", "better", "different"), row[0]
        assert row[2] == "same" or row[1], f"{row[0]}: a row that is not the same must say what is"


def test_the_tests_exist():
    for what, _, _, tests in rows():
        for test in tests.split(", "):
            path, _, name = test.partition("::")
            assert re.fullmatch(r"tests/test_\w+\.py", path), f"{what}: {test}"
            assert name in named_in(path), f"{what}: {test}"


def test_links_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).exists(), target

"""Tables of a page of documentation whose rows name the tests that show them."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def rows(page, heads):
    """The cells of each row of all tables on the page; not those that begin with one of the heads."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    found = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return [row for row in found if row[0] not in (*heads, "---")]


@cache
def named_in(path):
    """Names of the test functions of a file, read and not run."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def check_test(what, test):
    """The test exists, written as file::function."""
    path, _, name = test.partition("::")
    assert re.fullmatch(r"tests/(\w+/)*test_\w+\.py", path), f"{what}: {test}"
    assert name in named_in(path), f"{what}: {test}"


def check_links(page):
    """What the page links to within the repository exists."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target

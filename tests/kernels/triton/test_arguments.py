"""What device functions are given, read off the source: not every version of Triton takes all that Python would."""

import ast
from pathlib import Path

import pytest

import gatefuse.kernels.triton as device_code

FOLDER = Path(device_code.__file__).parent


def elements_of_cell(source):
    """Calls of device functions that are given an element of one of CELL's tuples, by line.

    Triton 3.6 takes it for what it is, a text or a number, and not for a constant: it fails on a text.
    """
    found = []
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id != "len":
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            texts = [ast.unparse(each) for each in given if isinstance(each, ast.Subscript)]
            found += [f"line {call.lineno}: {text}" for text in texts if text.startswith("CELL.")]
    return found


def test_what_is_looked_for_is_found():
    assert elements_of_cell("r = of_units(vector, CELL.REDUCES[p]) + n[CELL.V[p]]") == ["line 1: CELL.REDUCES[p]"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_no_device_function_is_given_an_element_of_a_tuple(path):
    assert elements_of_cell(path.read_text(encoding="utf-8")) == []

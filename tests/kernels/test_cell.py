"""What a person meets when writing a cell: gates, products, the signature's rules, and what errors say."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
from torch import tanh
from torch.nn.functional import linear
from torch.testing import assert_close

import gatefuse
from gatefuse import Cell, cell, cell_names, find_cell
from gatefuse.kernels.drivers import eager
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.recurrence import Recurrence
from gatefuse.kernels.task import Task, Weights

NAMES = ("i", "f", "g")
B, H = 2, 5


def packed():
    return torch.rand(B, len(NAMES) * H)


def parts(gates):
    return tuple(gates)


def exactly(message):
    return f"^{re.escape(message)}$"


def test_gates_by_name_and_by_order():
    values = packed()
    gates = Gates(NAMES, values)
    i, f, g = gates
    assert torch.equal(torch.cat([i, f, g], dim=1), values)
    assert torch.equal(gates.f, f)
    assert torch.equal(Gates(NAMES, parts=[i, f, g]).g, g)


@pytest.mark.parametrize("left_packed", [True, False])
@pytest.mark.parametrize("right_packed", [True, False])
def test_gates_arithmetic(left_packed, right_packed):
    a, b = packed(), packed()
    left = Gates(NAMES, a) if left_packed else Gates(NAMES, parts=a.chunk(3, dim=1))
    right = Gates(NAMES, b) if right_packed else Gates(NAMES, parts=b.chunk(3, dim=1))
    for result, expected in ((left + right, a + b), (left - right, a - b), (left * right, a * b)):
        assert torch.equal(torch.cat(parts(result), dim=1), expected)


def test_gates_with_a_number_and_with_one_gates_value():
    a, v = packed(), torch.rand(B, H)
    gates = Gates(NAMES, a)
    assert torch.equal((gates + 2).f, gates.f + 2)
    assert torch.equal((2 + gates).f, gates.f + 2)
    assert torch.equal((2 * gates).f, gates.f * 2)
    assert torch.equal((gates - 1).g, gates.g - 1)
    assert torch.equal((gates * v).i, gates.i * v)


def test_gates_of_packed_values_are_cut_only_when_asked_for():
    total = Gates(NAMES, packed()) + Gates(NAMES, packed())
    assert total._parts is None
    assert total._packed is not None


def test_unknown_gate():
    with pytest.raises(AttributeError, match=exactly("a gate must be one of i, f, g. Got q.")):
        _ = Gates(NAMES, packed()).q
    with pytest.raises(AttributeError, match=exactly("a gate of R must be one of i, f, g. Got q.")):
        _ = Recurrence(NAMES, torch.rand(15, 5), None).q


@pytest.mark.parametrize("bias", [torch.rand(15), None], ids=["bias", "no bias"])
def test_recurrence(bias):
    weight, v = torch.rand(15, 5), torch.rand(B, 5)
    R = Recurrence(NAMES, weight, bias)
    expected = linear(v, weight, bias)
    assert_close(torch.cat(parts(R(v)), dim=1), expected)
    for k, name in enumerate(NAMES):
        assert_close(getattr(R, name)(v), expected[:, k * 5 : (k + 1) * 5])
    assert R.f is R.f


def test_what_is_read_off_a_signature():
    @cell(gates="i f", init={"c": 1})
    def leaky(x, R, h, c, *, p, q):
        """A docstring."""
        return h, c

    assert isinstance(leaky, Cell)
    assert leaky.name == "leaky"
    assert leaky.gates == ("i", "f")
    assert leaky.states == ("h", "c")
    assert leaky.parameters == ("p", "q")
    assert leaky.init == (0.0, 1.0)
    assert leaky.__doc__ == "A docstring."
    assert repr(leaky) == "<cell leaky: gates i f, states h c>"


def test_signature_rules():
    form = "f must have the form f(x, R, state, ..., *, parameter, ...)"

    def refuses(f, message):
        with pytest.raises(TypeError, match=exactly(message)):
            cell(gates="a")(f)

    def f(x, R, *states):
        return states

    refuses(f, f"{form}. Got (x, R, *states).")

    def f(x, R, h, **parameters):
        return h

    refuses(f, f"{form}. Got (x, R, h, **parameters).")

    def f(x, R, /, h):
        return h

    refuses(f, f"{form}. Got (x, R, /, h).")

    def f(x, R, *, p):
        return p

    refuses(f, f"{form} with at least one state. Got (x, R, *, p).")

    def f(x, R, h, c=0):
        return h, c

    told = "a state's first value is of init=, a parameter's of parameter_init=, a number that stays of constants="
    refuses(f, f"{form} without defaults; {told}. Got (x, R, h, c=0).")


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ("", "gates must name at least one gate of f. Got none."),
        ("i f i", "the gates of f must differ. Got i f i."),
        ("i 2", "a gate of f must be a name without a leading underscore. Got '2'."),
        ("_i", "a gate of f must be a name without a leading underscore. Got '_i'."),
    ],
)
def test_gate_rules(gates, message):
    def f(x, R, h):
        return h

    with pytest.raises(ValueError, match=exactly(message)):
        cell(gates=gates)(f)


def test_init_must_name_states():
    def f(x, R, h, c):
        return h, c

    with pytest.raises(ValueError, match=exactly("init must name states of f (h, c). Got n.")):
        cell(gates="a", init={"n": 1.0})(f)


def test_cells_are_known_by_their_equations():
    def twin(x, R, h):
        return h

    one, two = cell(gates="a")(twin), cell(gates="a")(twin)
    assert one.key == two.key == f"{__name__}.test_cells_are_known_by_their_equations.<locals>.twin:{one.key[-16:]}"

    def twin(x, R, h):
        return -h

    other = cell(gates="a")(twin)
    assert other.key != one.key
    assert Cell.by_key(other.key).origin is other
    assert Cell.by_key(one.key).origin in (one, two)
    message = "cell must be the key of a cell defined in this process. Got 'nowhere'."
    with pytest.raises(ValueError, match=exactly(message)):
        Cell.by_key("nowhere")


def test_wrong_number_of_states():
    @cell(gates="a")
    def forgetful(x, R, h, c):
        return tanh(x.a + R.a(h))

    weights = Weights(torch.rand(5, 3), torch.rand(5, 5))
    task = Task(forgetful, torch.rand(4, B, 3), (torch.zeros(B, 5), torch.zeros(B, 5)), weights)
    message = r"^forgetful must return a tuple of its new states \(h, c\). Got 1 value \(.*test_cell.py, line \d+\).$"
    with pytest.raises(ValueError, match=message):
        eager.run(task)


def test_find_cell():
    for name in cell_names():
        found = find_cell(name)
        assert found.name == name
        assert found.key.startswith(f"{found.__module__}.{name}:")
        assert Cell.by_key(found.key).origin is found
        assert find_cell(found) is found
    message = f"cell must be one of {', '.join(cell_names())}, or made by gatefuse.cell. Got 'lstn'."
    with pytest.raises(ValueError, match=exactly(message)):
        find_cell("lstn")
    with pytest.raises(
        TypeError,
        match=exactly("cell must be a name or made by gatefuse.cell; a layer's is layer.cell. Got Recurrent."),
    ):
        gatefuse.source(gatefuse.Recurrent("gru", 2, 3))
    with pytest.raises(TypeError, match=exactly("cell must be a name or made by gatefuse.cell. Got int.")):
        find_cell(3)


@pytest.mark.parametrize("name", cell_names())
def test_cells_are_copied_by_reference(name):
    found = find_cell(name)
    assert copy.copy(found) is found
    assert copy.deepcopy({"cell": found})["cell"] is found
    assert pickle.loads(pickle.dumps(found)) is found


def test_a_cell_inside_a_function_cannot_be_pickled():
    @cell(gates="a")
    def local(x, R, h):
        return h

    with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
        pickle.dumps(local)

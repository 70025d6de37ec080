"""Sizes that a cell declares: how they are read, and that a trace finds each value's."""

import re

import pytest
import torch
from torch import sigmoid, tanh

import gatefuse
from tests.support.sized_cells import CELLS, VECTORS


def declared(sizes, **options):
    def equations(x, R, h, s, *, gain, rate):
        s = rate * s + x.b
        return tanh(x.a + R.a(h) + R.p(s)), s

    return gatefuse.cell(gates="b:x a p:R", constants={"rate": 0.5}, sizes=sizes, **options)(equations)


@pytest.mark.parametrize(
    ("sizes", "error", "text"),
    [
        ("slow", TypeError, 'sizes must be names by size, each in one text, such as {"slow": "s b"}. Got \'slow\'.'),
        (
            {"slow": 40},
            TypeError,
            'sizes must be names by size, each in one text, such as {"slow": "s b"}. Got {\'slow\': 40}.',
        ),
        ({"_slow": "s"}, ValueError, "a size of equations must be a name without a leading underscore. Got '_slow'."),
        ({3: "s"}, ValueError, "a size of equations must be a name without a leading underscore. Got 3."),
        (
            {"hidden_size": "s"},
            ValueError,
            "a size of equations must not be named as a layer's own. Got hidden_size.",
        ),
        (
            {"slow": " "},
            ValueError,
            "a size of equations must be that of a state, gate, parameter or input. Got slow alone.",
        ),
        (
            {"slow": "s rate"},
            ValueError,
            "sizes must name states, gates, parameters and inputs of equations (h, s, b, a, p, gain). Got rate.",
        ),
        ({"slow": "s", "fast": "s"}, ValueError, "sizes must name each value of equations once. Got s twice."),
        ({"slow": "s s"}, ValueError, "sizes must name each value of equations once. Got s twice."),
    ],
)
def test_declarations_that_are_refused(sizes, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        declared(sizes)


def test_a_declaration_is_part_of_the_key():
    keys = {declared(sizes).key for sizes in (None, {}, {"slow": "s b"}, {"late": "s b"}, {"slow": "h s a b p gain"})}
    assert len(keys) == 4
    assert declared(None).key == declared({}).key


@pytest.mark.parametrize("name", CELLS)
def test_what_r_multiplies_has_the_size_that_the_equations_show(name):
    cell = CELLS[name]
    found = {cell.recurrent_gates[g]: p.size for p in cell.program.products for g in p.gates}
    assert {gate: size or "hidden_size" for gate, size in VECTORS[name].items()} == found


def refusal(equations, **options):
    options = {"gates": "b:x a p:R", "sizes": {"slow": "s b"}} | options
    return gatefuse.cell(**options)(equations).refusal


def test_values_of_two_sizes_do_not_meet():
    def meeting(x, R, h, s):
        s = s + x.b
        return sigmoid(x.a + R.a(h) + R.p(s)) * s, s

    line = meeting.__code__.co_firstlineno + 2
    text = f"values of different sizes must meet by R alone. Got hidden_size and slow in mul of meeting ({__file__}, "
    assert refusal(meeting) == f"{text}line {line})"

    def selecting(x, R, h, s):
        s = s + x.b
        return torch.where(s > 0, R.a(h) + R.p(s), x.a), s

    assert "Got slow and hidden_size in where of selecting" in refusal(selecting)

    def caught(x, R, h, s):
        try:
            h = h * s
        except:  # noqa: E722, as a class of errors would come from outside
            h = 2 * h
        return tanh(x.a + R.a(h) + R.p(s)), s + x.b

    assert "Got hidden_size and slow in mul of caught" in refusal(caught)

    def gates_together(x, R, h, s):
        a = x + R(h) + s
        return tanh(a.a), s + x.b

    assert "Got hidden_size and slow in add of gates_together" in refusal(gates_together)


def test_new_states_have_their_sizes():
    def swapped(x, R, h, s):
        return s + x.b, tanh(x.a + R.a(h) + R.p(s))

    where = f"({__file__}, line {swapped.__code__.co_firstlineno})"
    assert refusal(swapped) == f"new state h of swapped must have size hidden_size. Got slow {where}"


def test_a_gate_multiplies_one_size():
    def both(x, R, h, s):
        s = s + x.b
        return tanh(x.a + R.a(h) + R.a(s) + R.p(h)), s

    text = (
        "what R multiplies for a gate of both must be of one size; a gate of R's own, p:R, multiplies another. "
        "Got hidden_size and slow for a"
    )
    assert refusal(both).startswith(text)

    def numbers(x, R, h, s):
        return tanh(x.a + R.a(h) + R.p(torch.ones_like(s))), s + x.b

    assert "what R multiplies of numbers, which has sizes, must be made of its states or gates." in refusal(numbers)


def test_products_that_nothing_uses_have_no_say():
    def all_gates(x, R, h, s):
        a = R(h)  # of p too, which is then asked for s
        s = s + x.b
        return tanh(x.a + a.a + R.p(s)), s

    cell = gatefuse.cell(gates="b:x a p:R", sizes={"slow": "s b"})(all_gates)
    assert not cell.refusal
    assert {cell.recurrent_gates[g]: p.size for p in cell.program.products for g in p.gates} == {
        "a": "hidden_size",
        "p": "slow",
    }


def test_means_are_of_one_size():
    def meaning(x, R, h, s):
        s = s + x.b
        return tanh(x.a + R.a(h) + R.p(s - s.mean(-1, keepdim=True))) * h.sum(-1, keepdim=True), s

    cell = gatefuse.cell(gates="b:x a p:R", sizes={"slow": "s b"})(meaning)
    assert not cell.refusal
    assert [p.size for p in cell.program.products if p.reduces] == ["slow", "hidden_size"]

    def crossing(x, R, h, s):
        return tanh(x.a + R.a(h) + R.p(s)) * s.mean(-1, keepdim=True), s + x.b

    assert "Got hidden_size and slow in mul of crossing" in refusal(crossing)

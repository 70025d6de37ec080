"""Operators and functions over all gates at once: by the equations as they stand, by the trace, and by every driver."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import clamp, nn, sigmoid, tanh, where
from torch.testing import assert_close

from gatefuse import Recurrent, cell
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.recurrence import Recurrence
from gatefuse.kernels.task import Request
from tests.kernels.equations.agreement import agree
from tests.support.oracle import check, make_task

NAMES = ("i", "f", "g")
B, H = 2, 5
OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
PACKED = pytest.mark.parametrize("packed", [True, False], ids=["packed", "parts"])


def gates(packed):
    values = torch.rand(B, len(NAMES) * H) + 0.5
    return Gates(NAMES, values) if packed else Gates(NAMES, parts=values.chunk(len(NAMES), dim=1))


@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS.keys())
@PACKED
def test_operators_from_both_sides(op, packed):
    a, b = gates(packed), gates(not packed)
    for other in (2, 0.5, torch.rand(B, H) + 1, torch.rand(H) + 1, b, gates(packed)):
        left, right = op(a, other), op(other, a)
        for name in NAMES:
            part = getattr(other, name) if isinstance(other, Gates) else other
            assert torch.equal(getattr(left, name), op(getattr(a, name), part))
            assert torch.equal(getattr(right, name), op(part, getattr(a, name)))


@PACKED
def test_a_sign_a_power_and_functions(packed):
    a, v = gates(packed), torch.rand(B, H)
    assert torch.equal((-a).f, -a.f)
    assert torch.equal((a**2).g, a.g**2)
    assert torch.equal(sigmoid(a).i, sigmoid(a.i))
    assert torch.equal(nn.Tanh()(a).f, tanh(a.f))
    assert torch.equal(nn.functional.silu(a).f, nn.functional.silu(a.f))
    assert torch.equal(clamp(a, min=v, max=v + 0.5).f, clamp(a.f, min=v, max=v + 0.5))
    assert torch.equal(where(v > 0.5, a, -a).f, where(v > 0.5, a.f, -a.f))
    assert torch.equal(torch.stack([a, v]).f, torch.stack([a.f, v]))
    # nothing mixes the gates, whatever they lie in
    assert torch.equal(torch.softmax(a, -1).f, torch.softmax(a.f, -1))


@PACKED
def test_functions_that_are_refused(packed):
    a, v = gates(packed), torch.zeros(B, H)
    message = "a function of all gates must change no tensor in place. Got {}."
    with pytest.raises(TypeError, match=message.format("add_")):
        v.add_(a)
    with pytest.raises(TypeError, match=message.format("add")):
        torch.add(a, 1, out=v)
    with pytest.raises(TypeError, match="must change no tensor in place"):
        v[:] = a
    assert isinstance(operator.iadd(v, a), Gates)  # a new value of that name
    assert not v.any()
    with pytest.raises(TypeError, match=r"must give a tensor for each of them. Got max by max."):
        torch.max(a, dim=1)
    with pytest.raises(
        AttributeError, match=r"^a gate must be one of i, f, g; of all gates it is torch.tanh\(a\). Got tanh.$"
    ):
        a.tanh()
    with pytest.raises(TypeError, match=r"^a gate must be asked for by its name, as a.i. Got a\[0\].$"):
        a[0]
    with pytest.raises(
        TypeError, match=r"^a gate must be asked for by its name, as x.i; R alone is called. Got a call.$"
    ):
        a(v)


@PACKED
def test_comparisons_select_by_gate(packed):
    a, v = gates(packed), torch.rand(B, H) + 0.5
    for op in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        for other in (1, v, a):
            part = other.f if isinstance(other, Gates) else other
            assert torch.equal(op(a, other).f, op(a.f, part))
            assert torch.equal(op(other, a).f, op(part, a.f))
    message = "^a condition must not be of all gates at once; torch.where selects for each. Got one.$"
    with pytest.raises(TypeError, match=message):
        _ = v if a > 0 else -v
    agree(cell(gates="a b")(lambda x, R, h: where(x + R(h) > 0, tanh(x), 0.5 * x).a + x.b))


def test_what_is_given_stays():
    """Else `a.f` would be another than f of `i, f, g = a`."""
    a, R = gates(True), Recurrence(NAMES, torch.rand(15, H), None)
    message = "^a gate must stay as it is; give a new value a name of its own. Got f set.$"
    for given in (a, R):
        with pytest.raises(AttributeError, match=message):
            given.f = torch.zeros(B, H)
    with pytest.raises(AttributeError, match=message):
        a.f += 1
    assert torch.equal(a.f, tuple(a)[1])


def test_what_r_is_not():
    R = Recurrence(NAMES, torch.rand(15, H), None)
    v = torch.rand(B, H)
    rule = r"^R must be called with a vector, as R\(h\), or R.f\(h\) for gate f. Got R itself in {}.$"
    for wrong, name in (
        (lambda: R * v, "mul"),
        (lambda: v @ R, "matmul"),
        (lambda: v + R.f, "add"),
        (lambda: tanh(R.i), "tanh"),
    ):
        with pytest.raises(ValueError, match=rule.format(rf"\w*{name}\w*")):
            wrong()
    with pytest.raises(TypeError, match=r"^what R multiplies must be a tensor. Got float.$"):
        R.f(2.0)
    with pytest.raises(
        TypeError, match=r"^what R multiplies must be a tensor. Got Gates, of which each gate is one, as a\.[a-z]\.$"
    ):
        R(R(v))
    with pytest.raises(
        ValueError, match=r"^what R multiplies must have a state's shape, \(\.\.\., 5\). Got \(2, 3\).$"
    ):
        R.i(v[:, :3])


@cell(gates="i f g")
def at_once(x, R, h, c, *, p):
    a = x + R(h)
    s = sigmoid(-a / 2 + p)
    t = 1 - tanh(a * c - h) / (2 + a**2)
    c = s.f * c + (1 - s).i * t.g
    return clamp(s * t, -0.4, 0.3).i + 0.5 * tanh(c), c


@cell(gates="i f g")
def one_by_one(x, R, h, c, *, p):
    a_i, a_f, a_g = x.i + R.i(h), x.f + R.f(h), x.g + R.g(h)
    s_i, s_f = sigmoid(-a_i / 2 + p), sigmoid(-a_f / 2 + p)
    t_i, t_g = 1 - tanh(a_i * c - h) / (2 + a_i**2), 1 - tanh(a_g * c - h) / (2 + a_g**2)
    c = s_f * c + (1 - s_i) * t_g
    return clamp(s_i * t_i, -0.4, 0.3) + 0.5 * tanh(c), c


def test_the_program_is_that_of_gates_one_by_one():
    assert at_once.refusal == ""
    assert at_once.program.text() == one_by_one.program.text()
    assert [repr(d) for d in at_once.program.d_slots] == [repr(d) for d in one_by_one.program.d_slots]


@pytest.mark.parametrize("options", [{}, {"lengths": True, "resets": True, "reverse": True}], ids=["plain", "all"])
@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in ("eager", "vendor")])
def test_every_driver(name, options):
    if why := driver(name).refusal(Request(at_once, torch.device("cpu"), torch.float32, 4, 3, 6)):
        pytest.skip(why)
    check(driver(name), make_task(at_once, 4, 3, 6, **options), torch.float32)


def test_the_plain_loop_agrees():
    agree(cell(gates="a b")(lambda x, R, h: (sigmoid(x + R(h)) / 2).a - tanh(1 - x).b))
    agree(cell(gates="a b")(lambda x, R, h: nn.functional.mish(x + R(h)).a - x.b), refused="Got mish, which can't")


def test_questions_of_all_gates_are_refused_as_of_one():
    branching = cell(gates="a")(lambda x, R, h: h if torch.sum(x + R(h)).a > 0 else -h)
    assert "no if, while or .item() on a tensor" in branching.refusal
    sized = cell(gates="a")(lambda x, R, h: torch.numel(h) * sigmoid(x + R(h)).a)
    assert "must not ask for a size" in sized.refusal


EDGES = [-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, float("nan"), float("inf"), float("-inf")]
CLAMPS = {
    "both": lambda x, R, h: h.clamp(-1, 1),
    "by name": lambda x, R, h: clamp(h, min=-1.0, max=1.0),
    "equal": lambda x, R, h: clamp(h, 1, 1),
    "crossed": lambda x, R, h: clamp(h, 1, -1),
    "below": lambda x, R, h: clamp(h, min=-1),
    "above": lambda x, R, h: clamp(h, max=1),
    "values": lambda x, R, h, c: (clamp(h, -c, c), c),
    "all gates": lambda x, R, h: clamp(x + h, -1, 1).a,
}


@pytest.mark.parametrize("form", CLAMPS.values(), ids=CLAMPS.keys())
@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in ("eager", "vendor")])
def test_clamp_and_its_gradient_at_the_bounds(name, form):
    unit = cell(gates="a")(form)
    found = []
    for each in ("eager", name):
        layer = Recurrent(unit, 2, len(EDGES), driver=each)
        if why := driver(each).refusal(Request(unit, torch.device("cpu"), torch.float32, 1, 1, len(EDGES))):
            pytest.skip(why)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
        states = [torch.tensor(EDGES)[None, None].requires_grad_()]
        states += [torch.ones(1, 1, len(EDGES), requires_grad=True) for _ in unit.states[1:]]
        output, _ = layer(torch.zeros(1, 1, 2), tuple(states) if len(states) > 1 else states[0])
        found.append([output, *torch.autograd.grad(output.sum(), states)])
    for expected, got in zip(*found, strict=True):
        assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
    if form in (CLAMPS["both"], CLAMPS["by name"]):
        inside = torch.tensor(EDGES).abs() <= 1
        assert torch.equal(found[1][1].flatten(), inside.float())
        assert found[1][0].flatten().isnan().tolist() == [edge != edge for edge in EDGES]


def test_compiled_as_a_function_of_torch_s():
    weight, x, h, c, p = torch.rand(15, H), torch.rand(B, 15), torch.rand(B, H), torch.rand(B, H), torch.rand(H)

    def step(x, h, c):
        return at_once.equations(Gates(NAMES, x), Recurrence(NAMES, weight, None), h, c, p=p)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x, h, c), step(x, h, c))

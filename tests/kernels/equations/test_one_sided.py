"""Gates that only the input feeds, or only R: no weights for the other side, and the numbers of a cell with both."""

import pickle

import pytest
import torch
from torch import relu, sigmoid, tanh
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, cell
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.task import Request
from tests.kernels.equations.agreement import B, H, I, agree
from tests.support.layers import flat
from tests.support.oracle import check, make_task

T = 5


@cell(gates="t i c:x m:R")
def both_kinds(x, R, h, s):
    """One gate that the input alone feeds, one that only R does, and two of both."""
    t, i = sigmoid(x.t + R.t(h)), sigmoid(x.i + R.i(h))
    s = i * tanh(x.c) + (1 - i) * s
    return t * tanh(R.m(s)) + (1 - t) * h, s


@cell(gates="t i c m")
def whole(x, R, h, s):
    t, i = sigmoid(x.t + R.t(h)), sigmoid(x.i + R.i(h))
    s = i * tanh(x.c) + (1 - i) * s
    return t * tanh(R.m(s)) + (1 - t) * h, s


@cell(gates="z:x n:x")
def min_gru(x, R, h):
    """The minimal GRU of Feng et al. 2024, which has no recurrent weights at all."""
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n


@cell(gates="a:x", init={"h": 0.5})
def independent(x, R, h, *, u):
    return relu(x.a + u * h)


@cell(gates="m:R f g:x")
def sums(x, R, h):
    a = x + R(h)  # a gate's one side where it has no other
    return sigmoid(a.f) * h + tanh(a.g) * tanh(a.m)


CELLS = (both_kinds, min_gru, independent, sums)


def rows(cell, side):
    """Of the gates' rows in the whole cell those that a side has."""
    names = cell.input_gates if side == "x" else cell.recurrent_gates
    return torch.cat([torch.arange(k * H, (k + 1) * H) for k, gate in enumerate(cell.gates) if gate in names])


def test_weights_have_rows_for_what_is_there():
    layer = Recurrent(both_kinds, I, H, 2, bidirectional=True)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters() if name.endswith("l0_reverse")}
    assert list(shapes.values()) == [(3 * H, I), (3 * H, H), (3 * H,), (3 * H,)]
    layer = Recurrent(min_gru, I, H)
    assert [tuple(p.shape) for p in layer.parameters()] == [(2 * H, I), (0, H), (2 * H,), (0,)]
    assert (both_kinds.gates, both_kinds.input_gates, both_kinds.recurrent_gates) == (
        ("t", "i", "c", "m"), ("t", "i", "c"), ("t", "i", "m"),
    )  # fmt: skip
    assert repr(both_kinds) == "<cell both_kinds: gates t i c:x m:R, states h s>"


@pytest.mark.parametrize("name", ["eager", "aten", "llvm", "script"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["plain", "deep"])
def test_numbers_are_those_of_a_cell_with_both_sides_whose_other_rows_are_zero(name, options):
    layer = Recurrent(both_kinds, I, H, dtype=torch.float64, driver=name, **options)
    full = Recurrent(whole, I, H, dtype=torch.float64, driver="eager", **options)
    for key, value in full.state_dict().items():
        side = "x" if "_ih_" in key else "R"
        value.zero_()
        value[rows(both_kinds, side)] = layer.state_dict()[key]
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    found, expected = flat(layer(x)), flat(full(x))
    assert_close(found, expected)
    upstream = [torch.rand_like(v) for v in found]
    ours = torch.autograd.grad(found, [x, *layer.parameters()], upstream)
    theirs = dict(
        zip(["x", *(n for n, _ in full.named_parameters())],
            torch.autograd.grad(expected, [x, *full.parameters()], upstream), strict=True)
    )  # fmt: skip
    assert_close(ours[0], theirs.pop("x"))
    for (key, d), mine in zip(theirs.items(), ours[1:], strict=True):
        assert_close(mine, d[rows(both_kinds, "x" if "_ih_" in key else "R")])


@pytest.mark.parametrize("each", [min_gru, sums], ids=lambda cell: cell.name)
def test_every_driver_agrees_with_the_plain_loop(each):
    agree(each)


@pytest.mark.parametrize("options", [{}, {"lengths": True, "resets": True, "reverse": True}], ids=["plain", "all"])
@pytest.mark.parametrize("each", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in ("eager", "vendor")])
def test_every_driver(name, each, options):
    if why := driver(name).refusal(Request(each, torch.device("cpu"), torch.float32, 4, 3, 16)):
        pytest.skip(why)
    check(driver(name), make_task(each, 4, 3, 16, **options), torch.float32)


@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_both_directions_at_once(name):
    module = driver(name)
    if why := module.refusal(Request(both_kinds, torch.device("cpu"), torch.float32, 4, 3, 16)):
        pytest.skip(why)
    layer = Recurrent(both_kinds, I, 16, bidirectional=True, driver=name)
    x = torch.randn(4, 3, I)
    found = flat(layer(x))
    layer.driver = "eager"
    assert_close(found, flat(layer(x)), rtol=1e-3, atol=1e-3)


def test_steppers_copies_and_pickles():
    layer = Recurrent(both_kinds, I, H)
    x = torch.randn(T, B, I)
    expected = layer(x)[0]
    steps = gatefuse.Stepper(layer, B)
    with torch.no_grad():
        assert_close(torch.stack([steps.step(row).clone() for row in x]), expected)
    assert_close(pickle.loads(pickle.dumps(layer))(x)[0], expected)
    assert pickle.loads(pickle.dumps(both_kinds)) is both_kinds


def test_compiled_by_torch():
    layer = Recurrent(sums, I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x)[0], layer(x)[0])


def test_as_an_object_for_c(tmp_path):
    layer = Recurrent(both_kinds, I, H).eval()
    exported = gatefuse.export_object(layer, tmp_path / "both.o")
    assert exported.weight_bytes >= 4 * sum(p.numel() for p in layer.parameters() if p.dim() == 2)


def test_a_side_that_is_not_there_is_refused():
    asks_x = cell(gates="a m:R")(lambda x, R, h: tanh(x.a + R.a(h)) * x.m)
    assert "a gate must be one of a, as m is declared without this side. Got m" in asks_x.refusal
    asks_R = cell(gates="a c:x")(lambda x, R, h: tanh(x.a + R.a(h)) * R.c(h))
    assert "a gate of R must be one of a, as c is declared without this side. Got c" in asks_R.refusal
    with pytest.raises(AttributeError, match=r"a gate must be one of a, as m is declared without this side. Got m."):
        Recurrent(asks_x, I, H, driver="eager")(torch.randn(T, B, I))
    product = cell(gates="a c:x")(lambda x, R, h: (x * R(h)).a)
    assert "what is done to all gates at once must be of the same gates, but a sum. Got a c and a" in product.refusal


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ("a b:y", r"a gate's side must be x or R, as in c:x. Got 'b:y'."),
        ("a:", r"a gate's side must be x or R, as in c:x. Got 'a:'."),
        ("a:R", r"the input must feed at least one gate. Got a:R."),
        (":x", r"a gate of .* must be a name without a leading underscore. Got ''."),
    ],
)
def test_a_wrong_declaration_is_refused(gates, said):
    with pytest.raises(ValueError, match=said):
        cell(gates=gates)(lambda x, R, h: h)

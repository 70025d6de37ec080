"""Constants of a cell: numbers that its equations take by name, part of its key, and others by with_."""

import pickle
import re

import pytest
import torch
from torch import tanh
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, cell
from gatefuse.kernels.drivers import DRIVERS, driver
from gatefuse.kernels.task import Request
from tests.support.layers import flat, gradients
from tests.support.oracle import check, make_task

T, B, I, H = 5, 2, 3, 4


@cell(gates="a", constants={"dt": 0.1, "gamma": 1})
def oscillator(x, R, h, z, *, dt, gamma, epsilon):
    """A coupled oscillatory network, Rusch and Mishra 2021, arXiv:2010.00951, with a learned damping."""
    z = z + dt * (tanh(x.a + R.a(h)) - gamma * h - epsilon * z)
    return h + dt * z, z


@cell(gates="a")
def oscillator_of_numbers(x, R, h, z, *, epsilon):
    z = z + 0.2 * (tanh(x.a + R.a(h)) - 3 * h - epsilon * z)
    return h + 0.2 * z, z


@cell(gates="a", constants={"n": 2, "squashed": True})
def counted(x, R, h, *, n, squashed):
    """Constants that count and decide."""
    for _ in range(n):
        h = 0.5 * h + x.a
    h = h + R.a(h)
    return tanh(h) if squashed else h


other = oscillator.with_(dt=0.2, gamma=3)


def test_what_is_read_off():
    assert oscillator.constants == {"dt": 0.1, "gamma": 1}
    assert oscillator.parameters == ("epsilon",)
    assert other.constants == {"dt": 0.2, "gamma": 3}
    assert (other.name, other.states, other.parameters) == ("oscillator", ("h", "z"), ("epsilon",))
    oscillator.constants["dt"] = 5.0  # a copy
    assert oscillator.constants["dt"] == 0.1


def test_a_constant_is_part_of_the_key():
    assert other.key != oscillator.key
    assert other.key.partition(":")[0] == oscillator.key.partition(":")[0]
    assert gatefuse.Cell.by_key(other.key).origin is other
    assert gatefuse.Cell.by_key(oscillator.key).origin is oscillator
    eager = cell(gates="a", constants={"by": 1.0})(lambda x, R, h, *, by: torch.softmax(by * x.a + R.a(h), -1))
    assert eager.refusal
    assert eager.key != eager.with_(by=2.0).key


def test_the_same_constants_are_the_same_cell():
    assert oscillator.with_() is oscillator
    assert oscillator.with_(dt=0.2, gamma=3) is other
    assert other.with_(dt=0.1, gamma=1) is oscillator
    assert other.current().with_(dt=0.1, gamma=1) is oscillator


@pytest.mark.parametrize("name", ["eager", "aten", "llvm", "script"])
def test_numbers_are_those_of_the_equations_with_numbers(name):
    layer = Recurrent(other, I, H, 2, dtype=torch.float64, driver=name)
    plain = Recurrent(oscillator_of_numbers, I, H, 2, dtype=torch.float64, driver="eager")
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    found, expected = layer(x), plain(x)
    for one, two in zip(flat(found), flat(expected), strict=True):
        assert_close(one, two)
    ours, theirs = (gradients(r, [x, *each.parameters()]) for r, each in ((found, layer), (expected, plain)))
    for one, two in zip(ours, theirs, strict=True):
        assert_close(one, two)
    layer.cell = oscillator
    assert not torch.allclose(layer(x)[0], expected[0])


@pytest.mark.parametrize("each", [other, counted.with_(n=3)], ids=lambda cell: cell.name)
@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in ("eager", "vendor")])
def test_every_driver(name, each):
    if why := driver(name).refusal(Request(each, torch.device("cpu"), torch.float32, 4, 3, 16)):
        pytest.skip(why)
    check(driver(name), make_task(each, 4, 3, 16, resets=True), torch.float32)


def test_constants_that_count_and_decide():
    x = torch.randn(T, B, I)
    layer = Recurrent(counted, I, H)
    torch.manual_seed(0)
    before = layer(x)[0]
    layer.cell = counted.with_(squashed=False)
    assert layer(x)[0].abs().max() > 1 or not torch.equal(layer(x)[0], before)
    assert_close(layer(x)[0][0], torch.atanh(before[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(protocol):
    for each in (oscillator, other, oscillator.with_(dt=0.3)):
        assert pickle.loads(pickle.dumps(each, protocol)) is each
    layer = Recurrent(oscillator.with_(dt=0.5), I, H)
    x = torch.randn(T, B, I)
    found = pickle.loads(pickle.dumps(layer, protocol))
    assert found.cell.constants["dt"] == 0.5
    assert_close(found(x), layer(x))


def test_a_pickle_of_a_cell_whose_name_another_one_took(monkeypatch):
    monkeypatch.setitem(globals(), "oscillator", other)
    first = other.with_(dt=0.1, gamma=1)
    assert pickle.loads(pickle.dumps(first)) is first
    assert pickle.loads(pickle.dumps(other)) is other
    assert pickle.loads(pickle.dumps(other, 2)) is other


def test_compiled_by_torch():
    layer = Recurrent(other, I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x)[0], layer(x)[0])


WRONG = {
    "no dictionary": (
        lambda: cell(gates="a", constants=[0.1])(lambda x, R, h, *, dt: h),
        TypeError,
        'constants must be numbers by name, such as {"dt": 1.0}. Got [0.1].',
    ),
    "unknown": (
        lambda: cell(gates="a", constants={"eps": 0.1})(lambda x, R, h, *, dt, p: h),
        ValueError,
        "constants must name keyword-only names of <lambda> (dt, p). Got eps.",
    ),
    "a state": (
        lambda: cell(gates="a", constants={"h": 0.1})(lambda x, R, h: h),
        ValueError,
        "constants must name keyword-only names of <lambda> (none). Got h.",
    ),
    "text": (
        lambda: cell(gates="a", constants={"dt": "0.1"})(lambda x, R, h, *, dt: h),
        TypeError,
        "constant dt must be a number. Got '0.1'.",
    ),
    "another unknown": (
        lambda: oscillator.with_(epsilon=1.0),
        ValueError,
        "constants of oscillator must be dt, gamma. Got epsilon.",
    ),
    "of none": (
        lambda: oscillator_of_numbers.with_(dt=1.0),
        ValueError,
        "constants of oscillator_of_numbers must be none. Got dt.",
    ),
    "another text": (
        lambda: oscillator.with_(dt=torch.ones(2)),
        TypeError,
        "constant dt must be a number. Got tensor([1., 1.]).",
    ),
}


@pytest.mark.parametrize(("make", "error", "text"), WRONG.values(), ids=WRONG.keys())
def test_wrong_constants_are_refused(make, error, text):
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        make()

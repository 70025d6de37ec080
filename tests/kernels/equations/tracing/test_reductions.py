"""Means, sums and variances over a sample's units in equations: what they are, and what is refused."""

import pytest
import torch
from torch import sigmoid, tanh
from torch.testing import assert_close

from gatefuse import Recurrent, cell, source
from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.task import Request
from gatefuse.kernels.tiling import tiles
from tests.kernels.drivers.test_drivers import check_here
from tests.kernels.equations.agreement import B, H, I, agree
from tests.kernels.loops.test_directions import check_both
from tests.support import made_up_cells
from tests.support.oracle import make_task


def of(equations, gates="a"):
    return cell(gates=gates)(equations)


@pytest.mark.parametrize(
    "equations",
    [
        lambda x, R, h: tanh(x.a + R.a(h) - h.mean(-1, keepdim=True)),
        lambda x, R, h: tanh(x.a + R.a(h) - torch.mean(h, dim=-1, keepdim=True)),
        lambda x, R, h: tanh(x.a + R.a(h) - h.mean((-1,), True)),
        lambda x, R, h: tanh(x.a + R.a(h)) / (x.a * x.a + 1).sum(-1, keepdim=True),
        lambda x, R, h: tanh(x.a + R.a(h) * h.var(-1, keepdim=True)),
        lambda x, R, h: tanh(x.a + R.a(h) * h.var(-1, False, True)),
        lambda x, R, h: tanh(x.a + R.a(h) * h.var(-1, unbiased=True, keepdim=True)),
        lambda x, R, h: tanh(x.a + R.a(h) * h.var(-1, correction=None, keepdim=True)),
        lambda x, R, h: tanh(x.a + R.a(h) * h.var(-1, correction=0, keepdim=True)),
        lambda x, R, h: tanh(x.a + R.a(h) * torch.var(h, dim=[-1], correction=2, keepdim=True)),
        lambda x, R, h: tanh(x.a + R.a(h - h.mean(-1, keepdim=True))) * h.mean(-1, keepdim=True),
        lambda x, R, h: tanh(x.a + R.a(h)) - h.mean(-1, keepdim=True).detach(),
        lambda x, R, h: tanh(x.a + R.a(h) - h.detach().mean(-1, keepdim=True) * h.mean(-1, keepdim=True)),
        lambda x, R, h: tanh(torch.mean(x + R(h), -1, keepdim=True).a + x.a),
        lambda x, R, h: tanh(x.a + R.a(h.amax(-1, True) - h)),
        lambda x, R, h: tanh(x.a + R.a(h).clamp(-0.1, 0.1).amax(dim=-1, keepdim=True) * h),
        lambda x, R, h: torch.where(h > h.mean(-1, keepdim=True), tanh(x.a), R.a(h)),
    ],
)
def test_every_driver_agrees_with_the_plain_loop(equations):
    unit = of(equations)
    assert unit.refusal == ""
    agree(unit)


DRIVERS = ("script", "aten", "llvm", "step", "block", "grid")
MASKS = {"lengths": True, "resets": True, "fresh": True}


@pytest.mark.parametrize(
    ("name", "size"),
    [(n, size) for n in DRIVERS for size in (6, 20, 130) if size < 130 or n in ("script", "aten", "llvm")],
)
@pytest.mark.parametrize("options", [{}, MASKS, {"reverse": True}], ids=str)
def test_the_largest_unit(name, options, size):
    unit = made_up_cells.attending
    assert [p.reduces for p in unit.program.products] == ["", "amax", "mean", "", "amax"]
    check_here(name, make_task(unit, 3, 2, size, **options), torch.float32, "cpu")


@pytest.mark.parametrize("options", [{}, MASKS], ids=str)
@pytest.mark.parametrize("name", ["step", "block", "grid"])
def test_the_largest_unit_in_16_bits(name, options):
    unit = of(lambda x, R, h: tanh(x.a + R.a(h) - 0.7 * h.amax(-1, keepdim=True)))
    check_here(name, make_task(unit, 3, 2, 20, **options), torch.float16, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["block", "grid"])
def test_the_largest_unit_in_both_directions(name):
    check_both(name, made_up_cells.attending, (2, 2, 20), "cpu", **MASKS)


@pytest.mark.parametrize("split", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_grid_s_programs_share_the_largest(monkeypatch, split):
    """Programs with some units each, and tiles of the batch in turns; with slices of a sum, some of them empty."""
    if split:
        monkeypatch.setattr(tiles, "_SPLIT", 1)
    unit = of(lambda x, R, h: tanh(x.a + R.a(h).clamp(-0.1, 0.1).amax(-1, keepdim=True) * h))
    check_here("grid", make_task(unit, 2, 19, 70, **MASKS), torch.float32, "cpu")


def largest(values, name, dtype, found=lambda h: h.amax(-1, keepdim=True)):
    """x + the largest of a state's units, and the state's gradient."""
    unit = of(lambda x, R, h: x.a + found(h), "a:x")
    layer = Recurrent(unit, I, values.shape[1], bias=False, driver=name, dtype=dtype)
    states = values.to(dtype)[None].clone().requires_grad_()
    output, _ = layer(torch.zeros(1, len(values), I, dtype=dtype), states)
    output.sum().backward()
    return output[0], states.grad[0]


@pytest.mark.parametrize("name", ["eager", *DRIVERS])
def test_the_largest_units_share_the_gradient(name):
    h = torch.tensor([[1.0, 3.0, 3.0, 2.0], [1.0, 3.0, 3.0, 3.0], [-2.0, -1.0, -3.0, -1.5]])
    _, d = largest(h, name, torch.float32)
    assert_close(d, torch.tensor([[0, 2, 2, 0], [0, 4 / 3, 4 / 3, 4 / 3], [0, 4, 0, 0]]))


@pytest.mark.parametrize("name", ["eager", "step", "block", "grid"])
def test_units_tie_as_they_were_compared_in_16_bits(name):
    """1 + 2^-13 is 1 in float16, and 0.37 times most numbers is another one."""
    small = torch.tensor([0.0, 2.0**-13, 0.0, -1.0], dtype=torch.float16)
    _, d = largest(small[None], name, torch.float16, lambda h: (h + 1).amax(-1, keepdim=True))
    assert_close(d, torch.tensor([[4 / 3, 4 / 3, 4 / 3, 0]], dtype=torch.float16))
    torch.manual_seed(0)
    h = torch.randn(9, 20)
    _, d = largest(h, name, torch.float16, lambda h: (0.37 * h).amax(-1, keepdim=True))
    _, expected = largest(h, "eager", torch.float16, lambda h: (0.37 * h).amax(-1, keepdim=True))
    assert_close(d, expected)


@pytest.mark.parametrize("name", ["script", "aten", "step", "block", "grid"])
def test_what_is_not_a_number_is_the_largest(name):
    h = torch.tensor([[1.0, torch.nan, 2.0], [1.0, 3.0, 2.0], [-torch.inf, -torch.inf, -torch.inf]])
    found, expected = largest(h, name, torch.float32), largest(h, "eager", torch.float32)
    assert expected[1][0].isnan().all()
    assert torch.equal(expected[0].isnan().all(1), torch.tensor([True, False, False]))
    assert_close(found[1], expected[1], equal_nan=True)
    assert torch.equal(found[0].isnan(), expected[0].isnan())


def test_no_gradient_goes_through_what_no_grad_reduces():
    def stopped(x, R, h):
        with torch.no_grad():
            m = h.mean(-1, keepdim=True)
        return tanh(x.a + R.a(h) * m + h.mean(-1, keepdim=True) * m)

    agree(of(stopped))


def test_the_same_of_the_same_is_one():
    unit = of(lambda x, R, h: tanh(x.a + R.a(h) - h.mean(-1, keepdim=True)) * h.mean(-1, keepdim=True))
    assert [p.reduces for p in unit.program.products] == ["", "mean"]
    assert [p.stage for p in unit.program.products] == [1, 1]
    assert unit.program.weighed == 1


@pytest.mark.parametrize(
    ("reduced", "text"),
    [
        (lambda h: h.mean(), "Got mean with neither"),
        (lambda h: h.sum(-1), "as v.sum(-1, keepdim=True). Got sum with dim=-1 ("),
        (lambda h: h.mean(1, keepdim=True), "Got mean with dim=1, keepdim=True"),
        (lambda h: h.mean(0, keepdim=True), "Got mean with dim=0, keepdim=True"),
        (lambda h: h.sum((0, 1), keepdim=True), "Got sum with dim=(0, 1), keepdim=True"),
        (lambda h: h.sum(-1, keepdim=True, dtype=torch.float64), "dtype=torch.float64"),
        (lambda h: torch.sum(h, axis=-1, keepdim=True), "Got sum with axis=-1, keepdim=True"),
        (lambda h: (h > 0).sum(-1, keepdim=True), "must reduce values of a state's shape and dtype. Got (2, 3) of"),
        (
            lambda h: h.mean(-1, keepdim=True).sum(-1, keepdim=True),
            "must reduce values that differ by unit. Got one number for all units of a sample",
        ),
        (lambda h: torch.ones_like(h).sum(-1, keepdim=True), "must reduce values that differ by unit. Got one"),
    ],
)
def test_what_is_reduced_otherwise_is_refused_in_words(reduced, text):
    unit = of(lambda x, R, h: tanh(x.a + R.a(h)) + reduced(h))
    assert text in unit.refusal
    assert unit.refusal.startswith("the equations of <lambda> must reduce ")
    assert "test_reductions.py, line" in unit.refusal


def test_parameters_alone_are_not_reduced():
    unit = cell(gates="a")(lambda x, R, h, *, p: tanh(x.a + R.a(h)) * p.mean(-1, keepdim=True))
    assert "what is reduced must not come of parameters alone. Got one of p" in unit.refusal


def test_one_number_for_all_units_is_no_state_and_no_vector():
    unit = of(lambda x, R, h: tanh(x.a + R.a(h)).mean(-1, keepdim=True))
    assert "the new state h of <lambda> must have a number for each unit. Got one for all" in unit.refusal
    with pytest.raises(ValueError, match=r"must have shape \(2, 5\). Got \(2, 1\)"):
        Recurrent(unit, I, H)(torch.randn(3, B, I))
    unit = of(lambda x, R, h: tanh(x.a + R.a(h.mean(-1, keepdim=True))))
    assert "what R multiplies of <lambda> must differ by unit. Got one number for all units" in unit.refusal
    with pytest.raises(ValueError, match=r"what R multiplies must have a state's shape, \(..., 5\). Got \(2, 1\)"):
        Recurrent(unit, I, H)(torch.randn(3, B, I))


def test_names_that_generated_code_would_take_are_left_to_the_cell():
    def named(x, R, mean_1, d_mean_2, *, r_a_2):
        a = x.a + R.a(mean_1) * R.a(d_mean_2)
        return tanh(a - a.mean(-1, keepdim=True) + r_a_2) * mean_1.mean(-1, keepdim=True), 0.5 * d_mean_2 + mean_1

    unit = of(named)
    assert len({slot.name for slot in unit.program.slots} | {"mean_1", "d_mean_2", "r_a_2"}) == 3 + len(
        unit.program.slots
    )
    layer = Recurrent(unit, I, H, dtype=torch.float64)
    x = torch.randn(4, B, I, dtype=torch.float64)
    found = {}
    for name in ("eager", "script", "aten", "llvm"):
        layer.driver = name
        output, _ = layer(x)
        found[name] = [output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))]
    for each in found.values():
        assert_close(each, found["eager"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [37, 512])
def test_a_sample_s_mean_is_the_same_to_the_bit_whatever_the_batch_and_the_threads(size, dtype):
    """By a cell without products, whose own order of sums may depend on the batch."""
    unit = cell(gates="a:x")(
        lambda x, R, h, *, p: tanh(p * h - h.mean(-1, keepdim=True)) / (0.5 + h.var(-1, keepdim=True))
    )
    torch.manual_seed(0)
    layer = Recurrent(unit, I, size, dtype=dtype, driver="llvm")
    x, h = torch.randn(5, 33, I, dtype=dtype), torch.randn(1, 33, size, dtype=dtype, requires_grad=True)

    def run(samples):
        output, _ = layer(x[:, samples], h[:, samples])
        (d,) = torch.autograd.grad(output.sum(), h)
        return output, d[:, samples]

    found, before = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            alone = [run([k]) for k in range(33)]
            found += [run(slice(None)), tuple(torch.cat(v, 1) for v in zip(*alone, strict=True))]
    finally:
        torch.set_num_threads(before)
    for each in found[1:]:
        assert torch.equal(each[0], found[0][0])
        assert torch.equal(each[1], found[0][1])


def test_a_mean_is_none_of_the_operations_that_are_counted():
    """Operations of products are what speed is measured against."""
    unit = made_up_cells.competing
    assert (unit.program.weighed, len(unit.program.columns)) == (1, 4)


def test_sources_can_be_read():
    for language, text in (("triton", "mean_1"), ("torchscript", ".mean(1, keepdim=True)"), ("llvm", "mean_1")):
        assert text in source(made_up_cells.centered, language)
    assert "1.0 / H" in source(made_up_cells.competing, "triton")


def test_what_no_driver_takes_runs_by_the_plain_loop():
    unit = of(lambda x, R, h: sigmoid(x.a + R.a(h)) - h.amin(-1, keepdim=True))
    with pytest.raises(TranslationError, match="Got amin, which can't be translated"):
        _ = unit.program
    request = Request(unit, torch.device("cpu"), torch.float32, 3, B, H)
    from gatefuse.kernels.plan import choose

    assert choose(request).driver == "eager"


@pytest.mark.parametrize("driver", ["script", "aten", "llvm"])
@pytest.mark.parametrize("unit", [made_up_cells.centered, made_up_cells.competing, made_up_cells.asking_again], ids=str)
def test_gradients_are_those_of_finite_differences(unit, driver):
    torch.manual_seed(0)
    layer = Recurrent(unit, 2, 4, dtype=torch.float64, driver=driver)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    parameters = list(layer.parameters())

    def run(x, *values):
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))[0]

    assert torch.autograd.gradcheck(run, (x, *parameters))


def test_a_layer_of_its_compiles_and_exports():
    layer = Recurrent(made_up_cells.centered, I, H)
    x = torch.randn(4, B, I)
    program = torch.export.export(layer, (x,))
    assert_close(program.module()(x)[0], layer(x)[0])
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x)[0], layer(x)[0])
    output = compiled(x)[0]
    expected = layer(x)[0]
    found, truth = (torch.autograd.grad(v.square().sum(), list(layer.parameters())) for v in (output, expected))
    assert_close(found, truth)

"""Equations that leave the rules: every driver gives their numbers and gradients, or says why it doesn't run them."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch
from torch import nn, relu, sigmoid, tanh
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import gatefuse
from gatefuse import Recurrent, cell
from gatefuse.kernels.cell import Cell

B, I, H = 2, 3, 5
DRIVERS = ("eager", "auto", "aten", "script")
STEPS = (3, 20)  # auto takes the Python loop for the first, generated operators for the second


def by_hand(layer, x, h):
    """The equations in a plain loop, a copy of the state for each step."""
    outputs = []
    R = gatefuse.kernels.equations.gates.Recurrence(layer.cell.gates, layer.weight_hh_l0, layer.bias_hh_l0)
    for step in nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0):
        h = layer.cell.equations(gatefuse.kernels.equations.gates.Gates(layer.cell.gates, step), R, h.clone())
        outputs.append(h)
    return torch.stack(outputs)


def gradients(layer, output):
    layer.zero_grad()
    output.square().sum().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in layer.parameters()]


def agree(unit, *, refused=""):
    """Every driver that takes the cell agrees with the plain loop; the others refuse it for that reason."""
    layer = Recurrent(unit, I, H, dtype=torch.float64)
    for T in STEPS:
        x, h = torch.randn(T, B, I, dtype=torch.float64), torch.randn(1, B, H, dtype=torch.float64)
        expected = by_hand(layer, x, h[0])
        d_expected = gradients(layer, expected)
        plan = layer.plan(x, h)
        assert refused in plan.refused.get("script", "")
        for driver in DRIVERS:
            layer.driver = driver
            if refused and driver in ("aten", "script"):
                with pytest.raises(RuntimeError, match=f"driver {driver} can't run this call"):
                    layer(x, h)
                continue
            before = h.clone()
            output, _ = layer(x, h)
            assert torch.equal(h, before)
            assert_close(output, expected)
            assert_close(gradients(layer, output), d_expected)
        layer.driver = "auto"


def test_sizes_are_those_of_the_call():
    for equations in (
        lambda x, R, h: tanh(x.a + R.a(h) * h.shape[-1] ** -0.5),
        lambda x, R, h: tanh(x.a + R.a(h)) if h.size(1) > 4 else relu(x.a + R.a(h)),
        lambda x, R, h: tanh(x.a + R.a(h)) / len(h),
        lambda x, R, h: tanh(x.a + R.a(h)) / h.numel(),
    ):
        agree(cell(gates="a")(equations), refused="must not ask for a size, which a trace would keep")


def test_a_dtype_is_asked_for_where_it_makes_no_difference():
    agree(cell(gates="a")(lambda x, R, h: tanh(x.a + R.a((h > 0).to(h.dtype)))))
    agree(cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h)) * (h > 0).type_as(h)))
    of_dtype = cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h) + 1e6 * torch.finfo(h.dtype).eps))
    agree(of_dtype, refused="must be the same in every dtype")
    by_dtype = cell(gates="a")(lambda x, R, h: tanh(x.a) if h.dtype == torch.float64 else relu(x.a + R.a(h)))
    agree(by_dtype, refused="must be the same in every dtype")
    agree(cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h).float())), refused="of the states' dtype")


def test_states_may_be_changed_in_place():
    def fading(x, R, h):
        h *= 0.9
        return h + tanh(x.a + R.a(h))

    def written(x, R, h):
        h[:, 0] = 0.5
        return tanh(x.a + R.a(h))

    for equations in (fading, written):
        agree(cell(gates="a")(equations), refused="must change no tensor in place")

    @cell(gates="a")
    def all_in_place(x, R, h):
        h *= 0.9
        h += tanh(x.a + R.a(h))
        return h

    layer, first = Recurrent(all_in_place, I, H), torch.randn(1, B, H)
    with torch.no_grad():
        x, before = torch.randn(4, B, I), first.clone()
        assert_close(layer(x, first)[0], by_hand(layer, x, first[0]))
    assert torch.equal(first, before)


def test_a_later_change_in_place_is_no_silent_one():
    calls = []

    def late(x, R, h):
        calls.append(None)
        if len(calls) % 4 > 1:
            h *= 0.5
        return tanh(x.a + R.a(h))

    def unseen(x, R, h):
        h.data.mul_(0.5)
        return tanh(x.a + R.a(h))

    for equations in (late, unseen):
        layer, x, first = Recurrent(cell(gates="a")(equations), I, H), torch.randn(4, B, I), torch.zeros(1, B, H)
        with torch.no_grad():
            found = layer(x, first)[0]
            calls.clear()
            assert_close(found, by_hand(layer, x, first[0]))
        assert not first.any()

    kept = [torch.zeros(B, H), torch.zeros(B, H)]

    @cell(gates="a")
    def same(x, R, h):
        kept.reverse()
        return kept[0].copy_(tanh(x.a + R.a(h)))

    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"same must return new states in each step\. Got one that an earlier"),
    ):
        Recurrent(same, I, H)(torch.randn(4, B, I))

    @cell(gates="a")
    def halving(x, R, h, *, p):
        return tanh(x.a + R.a(h)) + p.mul_(0.5)

    with torch.no_grad(), pytest.raises(RuntimeError, match="halving must not change its parameters in place"):
        Recurrent(halving, I, H)(torch.randn(4, B, I))


def test_changes_in_place_are_a_steps_own_where_none_are_counted():
    @cell(gates="a")
    def leak(x, R, h, *, p):
        h *= 0.9
        return tanh(x.a + R.a(h)) * p

    layer, x = Recurrent(leak, I, H), torch.randn(4, B, I)
    with torch.no_grad():
        expected = layer(x)[0]
        assert_close(torch.compile(layer, backend="aot_eager")(x)[0], expected)
        assert_close(torch.vmap(lambda x: layer(x)[0], 1, 1)(x[:, :, None])[:, :, 0], expected)


def test_gradients_stop_where_they_are_stopped():
    def truncated(x, R, h):
        return tanh(x.a + R.a(h.detach()))

    def spiking(x, R, v):
        g = sigmoid(4 * (v - 0.5))
        s = (v > 0.5).float() + g - g.detach()
        return 0.9 * v + x.a + R.a(s) - 0.5 * s.detach()

    def frozen(x, R, h):
        with torch.no_grad():
            g = sigmoid(x.a)
        return g * tanh(R.a(h))

    def through_data(x, R, h):
        return tanh(x.a + R.a(h)) + 0.5 * h.data

    def frozen_product(x, R, h):
        with torch.no_grad():
            r = R.a(h)
        return tanh(x.a + r) * 0.5 + 0.5 * h

    for equations in (truncated, spiking, frozen, through_data, frozen_product):
        agree(cell(gates="a")(equations))


def test_looking_at_a_gate_changes_nothing():
    @cell(gates="a b")
    def looked_at(x, R, h):
        a = x + R(h)
        with torch.no_grad():
            a.a.abs()
            R.b(h)
        return tanh(a.a) * sigmoid(a.b)

    layer = Recurrent(looked_at, I, H, driver="eager")
    layer(torch.randn(3, B, I))[0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_ties_share_the_gradient_as_torch_has_it():
    zero = 0.0
    agree(cell(gates="a")(lambda x, R, h: tanh(torch.maximum(h * 0, torch.tensor(zero)) + x.a + R.a(h))))
    agree(cell(gates="a")(lambda x, R, h: tanh(torch.maximum(relu(h), torch.tensor(0.0)) + x.a + R.a(h))))
    agree(cell(gates="a")(lambda x, R, h: tanh(relu(h).clamp(min=0.0) + x.a + R.a(h))))
    agree(cell(gates="a")(lambda x, R, h: tanh(torch.clamp(relu(h), min=relu(h * 2)) + x.a + R.a(h))))


def test_numbers_of_a_layer_of_its_own_or_a_product():
    norm, weight = nn.LayerNorm(H, dtype=torch.float64), torch.randn(H, H, dtype=torch.float64)
    agree(cell(gates="a")(lambda x, R, h: tanh(norm(x.a + R.a(h)))), refused="use norm from outside, a module")
    agree(cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h) + h @ weight)), refused="use weight from outside")
    agree(cell(gates="a")(lambda x, R, h: tanh((x.a + R.a(h)).view(B, 1, -1).flatten(1))), refused="Got view")
    one_size = cell(gates="a")(lambda x, R, h: tanh((x.a + R.a(h)).view(-1, 5, 1).flatten(1)))
    agree(one_size, refused="must run on states of shape (2, 3) as on any other. Got RuntimeError: shape")

    names = {"tanh": tanh, "H": H}  # as text, since pytest rewrites an assert
    exec("def checked(x, R, h):\n    assert h.shape[-1] == H\n    return tanh(x.a + R.a(h))", names)
    agree(cell(gates="a")(names["checked"]), refused="on states of shape (2, 3) as on any other. Got AssertionError")


def test_errors_of_all_kinds_are_reasons():
    @cell(gates="a")
    def broken(x, R, h):
        return {}["nowhere"]

    assert "must run on states of shape (2, 3) as on any other. Got KeyError: 'nowhere'" in broken.refusal
    with pytest.raises(KeyError, match="nowhere"):
        Recurrent(broken, I, H)(torch.randn(3, B, I))


def test_what_equations_catch_is_refused_all_the_same():
    def branching(x, R, h):
        a = x.a + R.a(h)
        try:
            return tanh(a) if h.sum() > 0 else relu(a)
        except:  # noqa: E722
            return a * 0.5

    def asking_twice(x, R, h):
        a = x.a + R.a(h)
        try:
            return tanh(a) * R.a(h)
        except:  # noqa: E722
            return a * 0.5

    agree(cell(gates="a")(branching), refused="Got sum, which can't be translated")
    agree(cell(gates="a")(asking_twice), refused="must ask R for each gate once a step. Got gate a twice")


def test_other_equations_of_a_cell_are_traced_anew():
    unit = new_cell()
    before, key = gatefuse.source(unit), unit.key
    unit.equations = lambda x, R, h: relu(x.a + R.a(h)) - sigmoid(x.b)
    assert unit.key != key
    assert gatefuse.source(unit) != before
    layer, x = Recurrent(unit, I, H), torch.randn(20, B, I)
    aten = layer(x)[0]
    layer.driver = "eager"
    assert_close(aten, layer(x)[0])


def test_constants_are_those_of_the_dtype():
    logarithm = cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h)) + torch.log(torch.full_like(h, 1e-50)) * 0.001)
    rounded = cell(gates="a")(lambda x, R, h: tanh(x.a + R.a(h)) / ((torch.ones_like(h) + 1e-9 - 1) * 1e9 + 1))
    for unit in (logarithm, rounded):
        assert "must be the same in every dtype" in unit.refusal


def test_zero_times_infinity_is_no_number_in_any_driver():
    zero = 0.0
    unit = cell(gates="a b")(lambda x, R, h: tanh(x.a + R.a(h)) + zero * torch.exp(x.b) * torch.exp(x.b))
    layer, x = Recurrent(unit, I, H), torch.randn(20, B, I)
    x[3] = 1e3
    found = {}
    for driver in DRIVERS:
        layer.driver = driver
        found[driver] = layer(x)[0].isnan()
    assert found["eager"].any()
    assert all(torch.equal(found["eager"], each) for each in found.values())


def test_truths_may_be_constant_and_numbers_truths():
    for equations in (
        lambda x, R, h: torch.where((h > 0) | (torch.zeros_like(h) > 1), tanh(x.a + R.a(h)), x.a),
        lambda x, R, h: torch.where(torch.ones_like(h) > 0, tanh(x.a + R.a(h)), x.a),
        lambda x, R, h: torch.where(torch.logical_or(relu(h), h * 0), tanh(x.a + R.a(h)), x.a),
        lambda x, R, h: tanh(x.a + R.a(h)) * torch.logical_not(torch.zeros_like(h) > 1),
    ):
        agree(cell(gates="a")(equations))


@pytest.mark.parametrize("driver", ["aten", "script"])
@pytest.mark.parametrize(
    "names",
    [
        ("h", "new_h"),
        ("h", "t0"),
        ("old_c", "c"),
        ("part_0", "seq_h"),
        ("sum_0", "in_0"),
        ("tanh_a", "tanh_h"),
        ("h", "h_"),
    ],
    ids=" ".join,
)
def test_names_of_states_are_free(driver, names):
    first, second = names
    text = f"""
def named(x, R, {first}, {second}, *, weight_0, x_0, no_bias):
    q = sigmoid({first}) * {first}
    new = tanh(x.a + R.a(q * q) + q * x_0) + weight_0 * tanh(R.b({second}))
    return new, tanh(q + 0.5 * {second}) * no_bias
"""
    space = {"tanh": tanh, "sigmoid": sigmoid}
    exec(text, space)
    layer = Recurrent(cell(gates="a b")(space["named"]), I, H, dtype=torch.float64)
    x = torch.randn(6, B, I, dtype=torch.float64)
    expected, (a, b) = layer(x)
    layer.driver = driver
    output, (c, d) = layer(x)
    assert_close((output, c, d), (expected, a, b))


def test_parameters_have_their_shape_at_every_length():
    @cell(gates="a")
    def scaled(x, R, h, *, p):
        return tanh(x.a + R.a(h)) * p

    layer = Recurrent(scaled, I, H)
    layer.p_l0 = nn.Parameter(torch.ones(2, H))
    for T in STEPS:
        with pytest.raises(ValueError, match=r"^parameter.* must have shape \(.*5,?\)\. Got \("):
            layer(torch.randn(T, B, I))
    assert "must not ask for a size" in cell(gates="a")(parameter_rank).refusal


def parameter_rank(x, R, h, *, p):
    return tanh(x.a + R.a(h)) * p.dim()


def test_gates_may_be_named_as_states_and_parameters():
    agree(cell(gates="h")(lambda x, R, h: tanh(x.h + R.h(h))))
    agree(cell(gates="a h")(lambda x, R, h: tanh(x.h + R.h(sigmoid(x.a + R.a(h)) * h))))
    two = cell(gates="h v")(lambda x, R, v: tanh(x.h + R.h(v)) + sigmoid(x.v + R.v(v)))
    agree(two)
    assert [p.gates for p in two.program.products] == [(0, 1)]


def test_learned_numbers_from_outside_learn():
    scale = nn.Parameter(torch.tensor(0.5))

    @cell(gates="a")
    def scaled(x, R, h):
        return tanh((x.a + R.a(h)) * scale)

    for T in STEPS:
        scale.grad = None
        Recurrent(scaled, I, H)(torch.randn(T, B, I))[0].sum().backward()
        assert scale.grad is not None


def new_cell():
    @cell(gates="a b")
    def fresh(x, R, h):
        return tanh(x.a + R.a(h)) * sigmoid(x.b + R.b(h))

    return fresh


@pytest.mark.parametrize("driver", ["auto", "aten", "script"])
def test_the_first_call_draws_no_random_numbers(driver):
    layer, x = Recurrent(new_cell(), I, H, num_layers=2, dropout=0.5, driver=driver), torch.randn(20, B, I)
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        drawn.append((layer(x)[0], torch.rand(3)))
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert_close(drawn[0][0], drawn[1][0])


@pytest.mark.parametrize("driver", ["auto", "aten", "script"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_the_first_call_may_be_within_a_checkpoint(driver, reentrant):
    layer = Recurrent(new_cell(), I, H, num_layers=2, dropout=0.5, driver=driver)
    x = torch.randn(20, B, I, requires_grad=True)
    torch.manual_seed(1)
    checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant).square().sum().backward()
    torch.manual_seed(1)
    (expected,) = torch.autograd.grad(layer(x)[0].square().sum(), x)
    assert_close(x.grad, expected)


@pytest.mark.parametrize("driver", ["auto", "aten"])
def test_the_first_call_may_be_within_other_modes(driver):
    for mode in (
        lambda: torch.autograd.set_detect_anomaly(True),
        torch.autograd.graph.save_on_cpu,
        torch.inference_mode,
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ):
        layer, x = Recurrent(new_cell(), I, H, driver=driver), torch.randn(20, B, I)
        try:
            with mode():
                torch.is_anomaly_enabled()
                layer.cell.refusal  # noqa: B018  (traces)
        finally:
            assert not torch.is_anomaly_enabled()
        assert layer.cell.refusal == ""
        assert layer.plan(x).driver == "aten" or driver != "auto"


def test_many_threads_may_be_the_first_to_call():
    layer, x = Recurrent(new_cell(), I, H), torch.randn(20, B, I)
    together, found = threading.Barrier(12), []

    def call():
        together.wait()
        found.append(layer(x)[0])

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(torch.equal(each, found[0]) for each in found)
    assert layer.plan(x).driver == "aten"
    assert len(layer.cell._versions) == 1


def test_a_key_depends_on_nothing_but_the_equations():
    before = new_cell()
    other = cell(gates="a b")(lambda x, R, h: h)
    after = new_cell()
    assert before.key == after.key != other.key
    assert before.serial != after.serial


def test_code_of_other_equations_under_a_name_is_refused():
    label = new_cell().key.rpartition(":")[0]
    alive = new_cell()
    with pytest.raises(
        ValueError, match=r"a program must run the equations that it was made of\. Got .* other equations"
    ):
        Cell.by_key(f"{label}:0123456789abcdef")
    assert Cell.by_key(alive.key).origin.label == label


@pytest.mark.parametrize("driver", ["eager", "aten", "script", "step", "auto"])
def test_cells_are_freed_with_all_that_was_made_of_them(driver):
    held = nn.Tanh()  # what a closure holds
    unit = cell(gates="a b")(lambda x, R, h: held(x.a + R.a(h)) * sigmoid(x.b + R.b(h)))  # noqa: F821
    layer, x = Recurrent(unit, I, H, driver=driver), torch.randn(20, B, I)
    layer(x)[0].sum().backward()
    layer.plan(x)
    alive = weakref.ref(unit), weakref.ref(held)
    del unit, layer, held
    gc.collect()
    assert [each() for each in alive] == [None, None]


def test_a_backward_runs_when_the_layer_is_gone():
    x = torch.randn(20, B, I, requires_grad=True)
    loss = Recurrent(new_cell(), I, H, driver="aten")(x)[0].sum()
    gc.collect()
    loss.backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("driver", ["eager", "aten", "script"])
@pytest.mark.parametrize("T", STEPS)
def test_weights_that_take_no_part_have_zero_gradients(driver, T):
    @cell(gates="z n")
    def mingru(x, R, h, *, unused):
        z = sigmoid(x.z)
        return (1 - z) * h + z * tanh(x.n)

    @cell(gates="a")
    def still(x, R, h):
        return 0.5 * h + R.a(h).detach()

    for unit in (mingru, still):
        layer = Recurrent(unit, I, H, driver=driver)
        layer(torch.randn(T, B, I))[0].sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
        assert not layer.weight_hh_l0.grad.any()


def test_weights_have_zero_gradients_where_nobody_knows_what_takes_part():
    norm = nn.LayerNorm(H)

    @cell(gates="a b")
    def unknown(x, R, h, *, unused):
        return norm(tanh(x.a + h))

    layer = Recurrent(unknown, I, H)
    layer(torch.randn(3, B, I))[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert torch.isfinite(layer.weight_ih_l0.grad).all()

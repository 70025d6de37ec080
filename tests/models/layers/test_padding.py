"""Whatever lies in the padding, and in the first states of samples without steps, reaches no result and no gradient."""

import contextlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, cell_names, find_cell
from gatefuse.kernels.drivers import driver as find_driver
from gatefuse.kernels.drivers.vendor import dispatch
from gatefuse.kernels.task import Request
from tests.support.layers import beside, flat, form
from tests.support.oracle import cast, make_task, results

T, B, I, H = 5, 4, 3, 4
LENGTHS = torch.tensor([3, 0, 5, 2])
GARBAGE = [float("nan"), float("inf"), -1e30]
KERNELS = ("step", "block", "grid")
OPTIONS = {
    "plain": {},
    "all": {"num_layers": 2, "bidirectional": True, "batch_first": True},
}


def runs(driver, cell, dtype=torch.float32, **options):
    request = Request(find_cell(cell), torch.device("cpu"), dtype, T, B, H, **options)
    if why := find_driver(driver).refusal(request):
        pytest.skip(why)


def spoiled(layer, x, states, garbage):
    """x (time or batch first) and the first states, with that in the padding."""
    x, states = x.detach().clone(), [s.detach().clone() for s in states]
    time_first = x.transpose(0, 1) if layer.batch_first else x
    for b, length in enumerate(LENGTHS.tolist()):
        time_first[length:, b] = garbage
        if not length:
            for s in states:
                s[:, b] = garbage
    return x.requires_grad_(), [s.requires_grad_() for s in states]


def outcome(layer, x, states, context=contextlib.nullcontext, **options):
    """Results, and gradients of x, the states and the weights."""
    generator = torch.Generator().manual_seed(1)
    options |= beside(layer.cell, *x.shape[:2], dtype=x.dtype)
    with context():
        found = flat(layer(x, form(states), lengths=LENGTHS, **options))
    probes = [torch.rand(v.shape, generator=generator).to(v.dtype) for v in found]
    leaves = [x, *states, *layer.parameters()]
    return found, probes, list(torch.autograd.grad(found, leaves, probes, allow_unused=True, materialize_grads=True))


def assert_untouched(layer, garbage, **options):
    S, rows = len(layer.cell.states), layer.num_layers * (1 + layer.bidirectional)
    dtype = layer.weight_ih_l0.dtype
    x = torch.randn((B, T, I) if layer.batch_first else (T, B, I), dtype=dtype)
    states = [torch.rand(rows, B, H, dtype=dtype) for _ in range(S)]
    clean, _, expected = outcome(layer, *spoiled(layer, x, states, 0.0), **options)
    x, states = spoiled(layer, x, states, garbage)
    found, probes, gradients = outcome(layer, x, states, **options)
    assert_close(found[:-S], clean[:-S])
    # of the dtype in which they are computed
    close = torch.testing._comparison.default_tolerances(found[0])
    assert_close(gradients, expected, rtol=close[0], atol=close[1])
    d_x = gradients[0].transpose(0, 1) if layer.batch_first else gradients[0]
    for b, length in enumerate(LENGTHS.tolist()):
        assert not d_x[length:, b].any()
        for final, plain, state, d_state, d_final in zip(
            found[-S:], clean[-S:], states, gradients[1:], probes[-S:], strict=False
        ):
            if length:
                assert_close(final[:, b], plain[:, b])
            else:
                assert_close(final[:, b], state[:, b].to(final.dtype), equal_nan=True, rtol=0, atol=0)
                assert torch.equal(d_state[:, b], d_final[:, b].to(d_state.dtype))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=[True, False], ids=["padded", "packed"])
def way(request, monkeypatch):
    """Either way of torch's own loop for every call."""
    monkeypatch.setattr(dispatch, "_pad", lambda *_: request.param)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("driver", ["auto", "eager", "script", "aten", "llvm"])
@pytest.mark.parametrize("cell", cell_names())
def test_of_every_cell(cell, driver, options, garbage):
    assert_untouched(Recurrent(cell, I, H, driver=driver, dtype=torch.float64, **options), garbage)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_of_torchs_own_loop(way, kind, options, garbage):
    assert_untouched(getattr(gatefuse, kind)(I, H, driver="vendor", **options), garbage)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cell", ["gru", "peephole_lstm"])
@pytest.mark.parametrize("driver", KERNELS)
def test_of_kernels(driver, cell, options):
    runs(driver, cell)
    assert_untouched(Recurrent(cell, I, H, driver=driver, **options), float("nan"))


@pytest.mark.parametrize("driver", ["eager", "script", "aten", "llvm", *KERNELS])
def test_with_resets_and_all_states(driver):
    runs(driver, "lstm", resets=True, all_states=True)
    dtype = torch.float32 if driver in KERNELS else torch.float64
    layer = Recurrent("lstm", I, H, driver=driver, dtype=dtype)
    fresh = [torch.rand(1, B, H, dtype=dtype) for _ in range(2)]
    for state in fresh:
        state[:, LENGTHS == 0] = float("nan")
    options = {"resets": torch.rand(T, B) < 0.4, "reset_state": tuple(fresh), "all_states": True}
    assert_untouched(layer, float("nan"), **options)


@pytest.mark.parametrize("driver", ["auto", "vendor", "eager", "script"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_under_autocast(way, kind, driver):
    layer = getattr(gatefuse, kind)(I, H, driver=driver)
    context = partial(torch.autocast, "cpu", torch.bfloat16)
    if driver == "script":  # it compiles in its second call, and then rounds to 16 bits in other places
        for _ in range(3):
            outcome(layer, torch.randn(T, B, I, requires_grad=True), _states(layer), context)
    assert_untouched(layer, float("nan"), context=context)


def _states(layer):
    return [torch.rand(1, B, H, requires_grad=True) for _ in layer.cell.states]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("driver", ["auto", "vendor", "eager", "script", "aten", "llvm"])
def test_in_other_dtypes(driver, dtype):
    runs(driver if driver != "auto" else "vendor", "gru", dtype)
    assert_untouched(Recurrent("gru", I, H, driver=driver, dtype=dtype), float("nan"))


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"resets": True, "fresh": True}], ids=str)
@pytest.mark.parametrize("driver", ["eager", "script", "aten", "llvm", *KERNELS, "vendor"])
def test_of_drivers_on_their_own(driver, options):
    if driver == "vendor" and "resets" in options:
        pytest.skip("torch's own loop has no resets")
    dtype = torch.float32 if driver in KERNELS else torch.float64
    runs(driver, "gru", dtype)
    task = cast(make_task(find_cell("gru"), T, B, H, **options), dtype)
    task = replace(task, lengths=LENGTHS)
    clean = results(find_driver(driver), task)
    over = torch.arange(T)[:, None] >= LENGTHS
    task.x.data[over] = float("nan")
    task.states[0].data[LENGTHS == 0] = float("nan")
    found = results(find_driver(driver), task)
    assert found["final 0"][1].isnan().all()
    clean["final 0"][1] = found["final 0"][1] = 0
    assert_close(found, clean)
    assert not found["d_x"][over].any()


@pytest.mark.parametrize("driver", KERNELS[1:])
def test_of_both_directions_at_once_on_their_own(driver):
    runs(driver, "gru")
    tasks = [cast(make_task(find_cell("gru"), T, B, H, seed=k, reverse=k == 1), torch.float32) for k in range(2)]
    tasks = [replace(task, lengths=LENGTHS, x=tasks[0].x) for task in tasks]
    leaves = [tasks[0].x, *[w for task in tasks for w in task.weights[:4]]]

    def run():
        (sequence,), (final,) = find_driver(driver).run_both(tuple(tasks))
        return sequence, final, *torch.autograd.grad(sequence.sum(), leaves)

    clean = run()
    tasks[0].x.data[torch.arange(T)[:, None] >= LENGTHS] = float("nan")
    for task in tasks:
        task.states[0].data[1] = float("nan")
    found = run()
    assert found[1][1].isnan().all()
    assert_close([v for k, v in enumerate(found) if k != 1], [v for k, v in enumerate(clean) if k != 1])
    assert_close(found[1][[0, 2, 3]], clean[1][[0, 2, 3]])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_of_a_scripted_layer(cell, options):
    layer = Recurrent(cell, I, H, dtype=torch.float64, **options)
    script = gatefuse.scripted(layer)
    script.cell, script.batch_first, script.num_layers = layer.cell, layer.batch_first, layer.num_layers
    assert_untouched(script, float("nan"))

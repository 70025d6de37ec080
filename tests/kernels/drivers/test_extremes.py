"""Many steps, and the same bits from the same call. That a batch may be empty is in test_parity and test_recurrent."""

import pytest
import torch
from torch.testing import assert_close

import gatefuse
from gatefuse import Recurrent, find_cell
from gatefuse.kernels.drivers import driver as find_driver
from gatefuse.kernels.task import Request
from tests.support.layers import flat

STEPS = 66_000  # more than 16 bits count
I, H = 2, 3


@pytest.mark.parametrize(
    "build",
    [
        lambda: gatefuse.LSTM(I, H),
        lambda: Recurrent("elman", I, H),
        lambda: Recurrent("elman", I, H, driver="script"),
    ],
    ids=["LSTM", "elman", "elman by script"],
)
def test_more_steps_than_16_bits_count(build):
    layer = build()
    x = torch.randn(STEPS, 1, I)
    with torch.no_grad():
        output, final = layer(x)
        first, state = layer(x[: STEPS // 2])
        second, end = layer(x[STEPS // 2 :], state)
    assert_close(output, torch.cat([first, second]))
    assert_close(flat(final), flat(end))


def test_gradients_through_more_steps_than_16_bits_count():
    layer = gatefuse.LSTM(I, H)
    x = torch.randn(STEPS, 1, I, requires_grad=True)
    layer(x)[0].sum().backward()
    short = x.detach()[-64:].requires_grad_()
    with torch.no_grad():
        _, state = layer(x[:-64])
    layer(short, state)[0].sum().backward()
    assert_close(x.grad[-64:], short.grad)
    assert layer.weight_hh_l0.grad.isfinite().all()


@pytest.mark.parametrize("driver", ["eager", "script", "aten", "llvm", "step", "block", "grid", "vendor"])
def test_in_deterministic_mode_a_call_gives_the_same_bits(driver):
    if why := find_driver(driver).refusal(Request(find_cell("lstm"), torch.device("cpu"), torch.float32, 3, 5, 8)):
        pytest.skip(why)
    assert torch.are_deterministic_algorithms_enabled()  # by tests/conftest.py, in all tests
    layer = Recurrent("lstm", I, 8, bidirectional=True, driver=driver)
    x = torch.randn(3, 5, I, requires_grad=True)
    options = {} if driver == "vendor" else {"resets": torch.rand(3, 5) < 0.3}
    found = []
    for _ in range(2 if driver != "script" else 4):
        results = flat(layer(x, lengths=[3, 2, 0, 3, 1], **options))
        found.append([*results, *torch.autograd.grad(sum(r.sum() for r in results), [x, *layer.parameters()])])
    # TorchScript compiles what it has seen run in the first two calls, and may round in another order from then on.
    for a, b in zip(*found[-2:], strict=True):
        assert torch.equal(a, b)

"""What compiled code must not take as it lies in memory: refused, made plain, or run otherwise."""

from __future__ import annotations

import signal
import subprocess
import sys
from itertools import chain

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_map

import gatefuse
from gatefuse import Recurrent, cell
from tests.support.kernels.compiling import ROOT
from tests.support.layers import flat

T, B, I, H = 20, 2, 3, 8


def pair(name="lstm", **options):
    """A layer by compiled code, and by the equations."""
    layer, oracle = Recurrent(name, I, H, driver="llvm", **options), Recurrent(name, I, H, driver="eager", **options)
    oracle.load_state_dict(layer.state_dict())
    return layer, oracle


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("weight_hh_l0", torch.randn(4, 4), r"must have shape \(32, 8\).*Got \(4, 4\)"),
        ("bias_hh_l0", torch.randn(1), r"must have shape \(32,\).*Got \(1,\)"),
        ("weight_hh_l0", torch.randn(4 * H, H, dtype=torch.float64), "must be torch.float32.*Got torch.float64"),
        ("weight_hh_l0", torch.randn(4 * H, H, device="meta"), "must be .*on.* cpu.*Got .*meta"),
    ],
)
def test_weights_that_were_replaced_by_wrong_ones_are_refused(name, value, text, grad):
    layer = pair()[0]
    setattr(layer, name, torch.nn.Parameter(value))
    with torch.set_grad_enabled(grad), pytest.raises((RuntimeError, ValueError, TypeError), match=text):
        layer(torch.randn(T, B, I))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("what", ["x", "state", "reset_state", "weight"])
def test_values_that_are_marked_as_negated(what, grad):
    layer, oracle = pair()
    x, state, fresh = torch.randn(T, B, I), torch.randn(2, 1, B, H), torch.randn(2, 1, B, H)

    def negated(value):
        return torch._neg_view(-value)

    x = negated(x) if what == "x" else x
    state = negated(state) if what == "state" else state
    fresh = negated(fresh) if what == "reset_state" else fresh
    if what == "weight":
        weight = layer.weight_hh_l0.detach()
        del layer.weight_hh_l0
        layer.weight_hh_l0 = negated(weight).requires_grad_()
    given = {"resets": torch.rand(T, B) < 0.3, "reset_state": tuple(fresh)}
    with torch.set_grad_enabled(grad):
        assert_close(flat(layer(x, tuple(state), **given)), flat(oracle(x, tuple(state), **given)))


def test_many_gradients_at_once():
    layer, oracle = pair("gru")
    x, given = torch.randn(T, B, I, requires_grad=True), torch.randn(4, T, B, H)
    found, expected = (torch.autograd.grad(m(x)[0], x, given, is_grads_batched=True)[0] for m in (layer, oracle))
    assert_close(found, expected)


@pytest.mark.parametrize("name", ["lstm", "gru", "gru_reset_first"])
def test_saved_tensors_that_come_back_with_other_strides(name):
    layer, x = pair(name)[0], torch.randn(T, B, I)

    def gradients(unpack):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            output = layer(x)[0]
        return torch.autograd.grad(output.square().sum(), list(layer.parameters()))

    apart = gradients(lambda t: torch.stack([t, t], -1)[..., 0])
    assert all(torch.equal(a, b) for a, b in zip(gradients(lambda t: t), apart, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_at_the_ends_of_the_type(dtype):
    @cell(gates="a")
    def ends(x, R, h):
        return torch.where(h > float("inf"), h, torch.log1p(x.a).clamp(max=1e38))

    layer = Recurrent(ends, 1, 1, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1.0)
    most = torch.finfo(dtype).max
    x = torch.tensor([most, most / 1.5, most / 3, 1e-30, -1.0, float("inf")], dtype=dtype)
    output = layer(x[:, None, None])[0].flatten()
    assert_close(output, torch.log1p(x).clamp(max=1e38))


FORKED = """
import os, sys, torch, gatefuse
torch.set_num_threads(2)
layer, large = gatefuse.LSTM(64, 256), gatefuse.LSTM(64, 700)
stepper = gatefuse.Stepper(large, 1)
x, first = torch.randn(5, 4, 64), torch.randn(1, 64)  # torch's own operators must not need its pool

def run():
    layer.zero_grad()
    output = layer(x)[0]
    output.sum().backward()
    return output.detach(), stepper.step(first).clone()

stepper.reset()
before = run()
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
stepper.reset()
after = run()
os._exit(not all(torch.equal(a, b) for a, b in zip(before, after)))
"""


def test_a_child_of_a_fork_runs_without_the_pool_that_it_does_not_have():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], cwd=ROOT, timeout=100)
    assert done.returncode == 0


def test_other_numbers_of_threads_give_the_same_bits():
    x, layer = torch.randn(20, 9, 64), gatefuse.GRU(64, 64)
    stepper, found = gatefuse.Stepper(gatefuse.GRU(64, 600), 1), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        stepper.reset()
        with torch.no_grad():
            found.append([layer(x)[0], stepper.step(x[0, :1]).clone()])
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(chain(*found[1:]), chain(*found[:1] * 2), strict=True))


def test_a_call_within_a_call_has_memory_of_its_own():
    """By a signal's handler, between any two lines of the outer call."""
    outer, inner = gatefuse.LSTM(16, 64), gatefuse.GRU(16, 64)
    x, y = torch.randn(14, 1, 16), torch.randn(30, 1, 16)
    with torch.no_grad():
        expected, _ = outer(x)[0], inner(y)

    within = []

    def handler(number, frame):
        if not within:  # one in another, a thousand deep, is not what is meant
            within.append(number)
            with torch.no_grad():
                inner(y)
            within.clear()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        with torch.no_grad():
            assert all(torch.equal(outer(x)[0], expected) for _ in range(3000))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_masks_without_memory_of_their_own():
    class Held(torch.Tensor):
        """A mask that wraps another."""

        @staticmethod
        def __new__(cls, held):
            return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype)

        def __init__(self, held):
            self.held = held

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            args, kwargs = tree_map(lambda t: t.held if isinstance(t, Held) else t, (args, kwargs or {}))
            return func(*args, **kwargs)

    layer, oracle = pair()
    x, resets = torch.randn(T, B, I), torch.rand(T, B) < 0.4
    with torch.no_grad():
        assert_close(layer(x, resets=Held(resets))[0], oracle(x, resets=resets)[0])

"""Equations that change their states in place: on copies of their own, or refused."""

from __future__ import annotations

import pytest
import torch
from torch import tanh
from torch.testing import assert_close

from gatefuse import Recurrent, cell
from tests.kernels.equations.agreement import B, H, I, agree, by_hand


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

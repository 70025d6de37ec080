"""What equations use from outside of themselves: what a trace can know is found, the rest is refused in words."""

from __future__ import annotations

import functools
import math
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn, sigmoid, tanh

import gatefuse
from gatefuse import cell
from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.equations.tracing.outside import OutsideError, references

RATE = 0.5
RATES = [0.25, 0.5]
SETTINGS = SimpleNamespace(rate=0.5, inner=SimpleNamespace(rate=0.25))
STEPS: list[int] = []


def refuse(equations, match):
    with pytest.raises(OutsideError, match=match):
        references(equations)


def texts(equations):
    return sorted(reference.text for reference in references(equations))


def helper(v):
    return v * RATE


def test_what_is_found():
    assert texts(lambda x, R, h: tanh(x.a) * RATE) == ["RATE", "tanh"]
    assert texts(lambda x, R, h: helper(h)) == ["RATE", "helper"]
    assert texts(lambda x, R, h: h * SETTINGS.inner.rate) == ["SETTINGS.inner.rate"]
    assert texts(lambda x, R, h: h * math.pi * RATES[0]) == ["RATES", "math.pi"]
    assert texts(lambda x, R, h: sum(g * RATE for g in (x.a, R.a(h)))) == ["RATE", "sum"]
    assert texts(lambda x, R, h: torch.nn.functional.softplus(h)) == ["torch.nn.functional.softplus"]


def test_what_is_found_around_a_function():
    rate, unused = 0.5, torch.ones(3)

    def equations(x, R, h):
        return h * rate

    assert texts(equations) == ["rate"]
    del unused


def test_what_may_change_unseen_is_refused():
    tensor, learned, layer, method = torch.ones(3), nn.Parameter(torch.ones(())), nn.LayerNorm(4), [].append
    refuse(
        lambda x, R, h: h * tensor, "use tensor from outside, a tensor, whose values may change; give a number, or a"
    )
    refuse(lambda x, R, h: h * learned, "use learned from outside, a tensor")
    refuse(lambda x, R, h: layer(h), "use layer from outside, a module, whose weights and settings may change")
    refuse(lambda x, R, h: h * layer.weight, "use layer.weight from outside, a tensor")
    refuse(lambda x, R, h: h * random.random(), "use random.random from outside, which is no function that a trace can")
    refuse(lambda x, R, h: method(h) or h, "use method from outside, which is no function")
    refuse(lambda x, R, h: h * torch.is_grad_enabled(), "use torch.is_grad_enabled from outside")
    refuse(lambda x, R, h: print(h) or h, "use print from outside")
    refuse(lambda x, R, h: h * SETTINGS, "use SETTINGS from outside, a SimpleNamespace, which may change unseen")
    refuse(lambda x, R, h: STEPS.append(1) or h, "use STEPS from outside, whose append may change it")
    refuse(lambda x, R, h: h * missing, "use missing from outside, which is not there")  # noqa: F821
    refuse(functools.partial(helper), "are a partial, not a function")


def test_writing_outside_is_refused():
    count = 0

    def counting(x, R, h):
        nonlocal count
        count += 1
        return h * count

    def noting(x, R, h):
        RATES[0] = 1
        return h

    def setting(x, R, h):
        SETTINGS.rate = 2
        return h

    def importing(x, R, h):
        import time

        return h * time.time()

    refuse(counting, "change count, which is outside of them")
    refuse(noting, "use RATES from outside, whose items they may change")
    refuse(setting, "use SETTINGS from outside, a SimpleNamespace, which may change unseen")
    refuse(importing, "import a module or define a class; do so outside of them")


def test_torchs_add_changes_no_container():
    rates = {"h": 0.5}
    marks = set()

    def added(x, R, h):
        return tanh(torch.add(x.a, R.a(h))) * rates["h"]

    def marked(x, R, h):
        noted = marks
        noted.add(1)
        return torch.add(x.a, R.a(h)) * rates["h"]

    assert "rates" in texts(added)
    refuse(marked, "use marks from outside, whose items they may change")
    assert not marks


def test_a_container_that_equations_turn_round_is_refused():
    turned = [0.5, 1.5]

    def flip(x, R, h):
        s = turned
        s.reverse()
        return tanh(x.a + R.a(h)) * s[0]

    refuse(flip, "use turned from outside, whose items they may change")
    assert turned == [0.5, 1.5]


def test_activations_and_functions_of_torch_are_known():
    activation = nn.Hardtanh(-0.5, 0.5)
    (found,) = references(lambda x, R, h: activation(h))
    assert found.holds()
    activation.max_val = 0.75
    assert not found.holds()
    refuse(lambda x, R, h: nn.Dropout(0.5)(h), "use nn.Dropout from outside")


def test_the_refusal_of_a_trace_names_the_cell():
    tensor = torch.ones(3)

    @cell(gates="a")
    def unit(x, R, h):
        return sigmoid(x.a) * tensor

    with pytest.raises(TranslationError, match="the equations of unit use tensor from outside, a tensor"):
        gatefuse.source(unit)

"""torch.nn's layers and cells, and what real code does to their weights: reads, replaces, computes, freezes, saves."""

import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.testing import assert_close

from tests.models.layers.torch_nn.test_parity import (
    CELLS,
    B,
    H,
    assert_equal,
    drivers,
    how,
    layers,
    modules,
    pair,
    sequence,
    state,
)
from tests.support.layers import flat


@layers
def test_all_weights_and_flatten_parameters(name):
    theirs, ours = pair(name, "auto", num_layers=2, bidirectional=True)
    assert [[w.shape for w in group] for group in ours.all_weights] == [
        [w.shape for w in group] for group in theirs.all_weights
    ]
    assert {id(w) for group in ours.all_weights for w in group} == {id(p) for p in ours.parameters()}
    x = sequence(ours)
    before = ours(x)[0]
    assert ours.flatten_parameters() is None
    assert torch.equal(ours(x)[0], before)


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


@modules
@drivers
def test_parametrized_weights(name, driver):
    theirs, ours = pair(name, driver)
    weight = "weight_hh" if name in CELLS else "weight_hh_l0"
    x = sequence(ours)
    _, hx = state(ours, *((B, H) if name in CELLS else (1, B, H)))
    for module in (theirs, ours):
        parametrize.register_parametrization(module, weight, Half())
    assert_equal(ours(x, hx), theirs(x, hx), list(ours.parameters()), list(theirs.parameters()), how(name, driver))
    for module in (theirs, ours):
        parametrize.remove_parametrizations(module, weight)
    assert_equal(ours(x, hx), theirs(x, hx), list(ours.parameters()), list(theirs.parameters()), how(name, driver))


@modules
@drivers
def test_functional_call(name, driver):
    theirs, ours = pair(name, driver)
    x = sequence(ours)
    weights = {key: torch.randn_like(p) for key, p in ours.named_parameters()}
    a, b = (torch.func.functional_call(module, weights, (x,)) for module in (ours, theirs))
    for left, right in zip(flat(a), flat(b), strict=True):
        assert_close(left, right, **how(name, driver))


@modules
def test_state_dicts_are_strict_both_ways(name):
    theirs, ours = pair(name, "auto")
    saved = io.BytesIO()
    torch.save(theirs.state_dict(), saved)
    saved.seek(0)
    ours.load_state_dict(torch.load(saved))
    short = dict(list(ours.state_dict().items())[1:])
    for module in (theirs, ours):
        with pytest.raises(RuntimeError, match="Missing key"):
            module.load_state_dict(short)
        with pytest.raises(RuntimeError, match="Unexpected key"):
            module.load_state_dict({**module.state_dict(), "weight": torch.zeros(1)})


@layers
@drivers
def test_frozen_weights(name, driver):
    theirs, ours = pair(name, driver)
    for module in (theirs, ours):
        module.requires_grad_(False)
        module.bias_hh_l0.requires_grad_()
    x = sequence(ours)
    assert_equal(ours(x), theirs(x), [ours.bias_hh_l0], [theirs.bias_hh_l0], how(name, driver))
    with torch.no_grad():
        assert not any(v.requires_grad for v in flat(ours(x)))

"""speechbrain's LiGRU and SLiGRU, accelerated, against the package itself; skipped where it isn't installed."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import gatefuse
from gatefuse.kernels.tolerance import allowed, error, worst
from tests.support.layers import flat, gradients
from tests.support.speechbrain_layers import FORMS, B, H, I, T, make, package, pair

if package is None:
    pytest.skip("the package speechbrain isn't there", allow_module_level=True)
ACTS = ("relu", "tanh", "leaky_relu", "sin")


def states(layer, batch=B):
    rows = layer.num_layers, batch * (2 if layer.bidirectional else 1), H
    return torch.randn(rows, dtype=torch.float64)


def assert_same(theirs, ours, x, hx=None, dtype=torch.float64):
    """Results and gradients of all parameters, the input and the first states; what a layer remembers, too."""
    results = []
    for layer in (theirs, ours):
        given = [None if v is None else v.to(dtype).clone().requires_grad_() for v in (x, hx)]
        found = layer(*given)
        leaves = [v for v in (*given, *layer.parameters()) if v is not None and v.requires_grad]
        results.append((*flat(found), *gradients(found, leaves), *[b.clone() for b in layer.buffers()]))
    for a, b in zip(results[1], results[0], strict=True):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert_close(a, b, rtol=1e-11, atol=1e-12)
    return results


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_as_the_package(form, bidirectional, training, here):
    theirs, ours = pair(form, num_layers=2, bidirectional=bidirectional, dropout=0.3)
    for layer in (theirs, ours):
        layer.train(training)
    for hx in (None, states(theirs)):
        assert_same(theirs, ours, torch.randn(B, T, I, dtype=torch.float64), hx)
    assert len(here) == 4


@pytest.mark.parametrize("driver", ["eager", "aten", "llvm", "script"])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("form", ["LiGRU", "SLiGRU", "SLiGRU affine"])
def test_every_activation_by_every_driver(form, act, driver, here):
    theirs = make(form, nonlinearity=act)
    ours = copy.deepcopy(theirs)
    gatefuse.accelerate(ours, driver=driver)
    assert_same(theirs, ours, torch.randn(B, T, I, dtype=torch.float64), states(theirs))
    assert here


@pytest.mark.parametrize("form", FORMS)
def test_float32_errs_no_more_than_the_package(form, here):
    exact = make(form, num_layers=2, bidirectional=True)
    theirs, ours = (make(form, torch.float32, num_layers=2, bidirectional=True) for _ in range(2))
    for layer in (theirs, ours):
        layer.load_state_dict(exact.state_dict())
    exact.load_state_dict(theirs.state_dict())
    gatefuse.accelerate(ours)
    errs: tuple[list, list] = ([], [])
    for _ in range(5):  # the package's worst in several inputs, as one of them may suit it
        x = torch.randn(B, T, I)
        exactly, *found = [rounded(layer, x) for layer in (exact, theirs, ours)]
        for each, values in zip(errs, found, strict=True):
            each += [error(a, b) for a, b in zip(values, exactly, strict=True)]
    assert len(here) == 10
    assert worst(errs[1]) <= allowed(worst(errs[0]), torch.finfo(torch.float32).eps)


def rounded(layer, x):
    """Results and gradients, of x in the layer's dtype."""
    given = x.to(layer.rnn[0].u.weight.dtype).requires_grad_()
    results = layer(given)
    leaves = [given, *[p for p in layer.parameters() if p.requires_grad]]
    return [v.detach().double() for v in (*flat(results), *gradients(results, leaves))]


def test_no_gradients_wanted(here):
    theirs, ours = pair("LiGRU", bidirectional=True, num_layers=2)
    x = torch.randn(B, T, I, dtype=torch.float64)
    with torch.no_grad():
        for training in (True, False):
            results = [flat(layer.train(training)(x)) for layer in (theirs, ours)]
            assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    assert len(here) == 4


def test_gradients_of_gradients():
    layers = pair("LiGRU", nonlinearity="tanh")
    x = torch.randn(B, T, I, dtype=torch.float64)
    found = []
    for layer in layers:
        given = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(given)[0].square().sum(), given, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [given, *layer.parameters()]))
    assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)


def test_masks_go_on_and_are_drawn_anew_as_there(here):
    """Batches of several sizes, and masks that come to their end: both draw from torch's generator."""
    theirs, ours = pair("LiGRU", dropout=0.5)
    results = []
    for layer in (theirs, ours):
        torch.manual_seed(3)
        layer.rnn[0].drop_mask_cnt = 16000 - 2 * B
        results.append([layer(torch.ones(b, T, I, dtype=torch.float64))[0] for b in (B, B, B, 2, B, 5)])
        results[-1].append(torch.tensor(layer.rnn[0].drop_mask_cnt))
    assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    assert len(here) == 6


def test_an_input_of_four_dimensions(here):
    theirs = package.LiGRU(H, (B, T, 2, I)).double()
    ours = copy.deepcopy(theirs)
    gatefuse.accelerate(ours)
    assert_same(theirs, ours, torch.randn(B, T, 2, I, dtype=torch.float64))
    assert here


def test_the_same_objects_and_back():
    model = nn.ModuleDict({"encoder": make("LiGRU"), "head": nn.Linear(H, 2)})
    layer, parameters = model["encoder"].rnn[0], dict(model.named_parameters())
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(B, T, I, dtype=torch.float64)
    model.eval()
    before = model["encoder"](x)[0]
    told = gatefuse.accelerate(model)
    theirs, ours = (f"{place}.LiGRU_Layer" for place in ("speechbrain.nnet.RNN", "gatefuse.models.others.speechbrain"))
    assert told.changed == {"encoder.rnn.0": f"{theirs} -> {ours}"}
    assert isinstance(layer, package.LiGRU_Layer)
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert model.state_dict().keys() == kept.keys()
    model.load_state_dict(kept)
    assert gatefuse.accelerate(model).left == {"encoder.rnn.0": "it is gatefuse's already"}
    assert gatefuse.restore(model).changed == {"encoder.rnn.0": f"{ours} -> {theirs}"}
    assert type(layer) is package.LiGRU_Layer
    assert not {"driver", "_accelerated"} & vars(layer).keys()
    assert torch.equal(model["encoder"](x)[0], before)


def test_copies_and_pickles():
    theirs, ours = pair("SLiGRU")
    x = torch.randn(B, T, I, dtype=torch.float64)
    theirs.eval(), ours.eval()
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other.rnn[0]) is type(ours.rnn[0])
        assert torch.equal(other(x)[0], ours(x)[0])
        gatefuse.restore(other)
        assert torch.equal(other(x)[0], theirs(x)[0])


def test_a_replica_of_data_parallel(here):
    """Whose weights are tensors that are no parameters."""
    theirs, ours = pair("LiGRU")
    replica = ours.rnn[0]._replicate_for_data_parallel()
    replica.u = ours.rnn[0].u._replicate_for_data_parallel()
    replica.u.weight, replica.u.bias = ours.rnn[0].u.weight.detach(), None
    x = torch.randn(B, T, I, dtype=torch.float64)
    assert_close(replica(x), theirs.rnn[0](x), rtol=1e-11, atol=1e-12)
    assert here

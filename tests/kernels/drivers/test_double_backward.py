"""Second derivatives of torch's own loops where these come of one node without any, as cuDNN's do.

A made-up library stands for cuDNN: torch's loops on a CPU within a node that can be differentiated once.
"""

import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse.kernels.drivers import eager
from gatefuse.kernels.drivers.vendor import double_backward
from tests.support.layers import flat

T, B, I, H = 5, 3, 2, 4
LENGTHS = torch.tensor([3, 5, 2])


class Once(torch.autograd.Function):
    """The first tensors of many, whose own derivative raises."""

    @staticmethod
    def forward(ctx, count, *tensors):
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("Double backwards is not supported.")


class Library(torch.autograd.Function):
    """Results of a function as one node, which can be differentiated once."""

    @staticmethod
    def forward(ctx, function, *tensors):
        ctx.save_for_backward(*tensors)
        with torch.enable_grad():
            ctx.inputs = [t.detach().requires_grad_() for t in tensors]
            ctx.results = function(*ctx.inputs)
        return tuple(r.detach().clone() for r in ctx.results)

    @staticmethod
    def backward(ctx, *given):
        detached = [g.detach() for g in given]
        found = torch.autograd.grad(ctx.results, ctx.inputs, detached, retain_graph=True, materialize_grads=True)
        return None, *Once.apply(len(found), *found, *ctx.saved_tensors, *given)


def stand_in(loop):
    """torch.lstm or one like it, by the library: (x, hx, weights, ...), or with batch_sizes after x."""

    def run(x, *arguments):
        packed = isinstance(arguments[0], torch.Tensor) and not arguments[0].is_floating_point()
        sizes, (states, weights, *options) = arguments[:packed], arguments[packed:]
        several = not isinstance(states, torch.Tensor)
        states = states if several else [states]
        S = len(states)

        def function(x, *tensors):
            return loop(x, *sizes, tensors[:S] if several else tensors[0], tensors[S:], *options)

        return Library.apply(function, x, *states, *weights)

    return run


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setattr(double_backward, "foreign", lambda device: True)
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        found = stand_in(getattr(torch, name))
        monkeypatch.setattr(torch, name, found)
        monkeypatch.setattr(torch._VF, name, found)  # as torch.nn calls them


def penalty(layer, x, state, **options):
    """Gradients of the sum of squares of a gradient, as WGAN-GP has."""
    given = [x, *flat(state)] if state is not None else [x]
    output, final = layer(x, state, **options)
    data = [output, *flat(final)]
    slopes = torch.autograd.grad(sum(v.square().sum() for v in data), given, create_graph=True)
    assert all(s.requires_grad for s in slopes)
    return torch.autograd.grad(sum(s.square().sum() for s in slopes), [*given, *layer.parameters()], allow_unused=True)


def pair(kind, name, **options):
    """A layer on torch's own loop, and one with its weights on the eager loop."""
    torch.manual_seed(0)
    if kind == "Recurrent":
        layers = [gatefuse.Recurrent(name, I, H, driver=d, **options) for d in ("vendor", "eager")]
    else:
        layers = [getattr(gatefuse, name)(I, H, driver=d, **options) for d in ("vendor", "eager")]
    layers[1].load_state_dict(layers[0].state_dict())
    return [layer.double() for layer in layers]


def state_of(layer, *batch):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    state = [torch.randn(rows, *batch, H, dtype=torch.float64, requires_grad=True) for _ in layer.cell.states]
    return tuple(state) if len(state) > 1 else state[0]


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}])
@pytest.mark.parametrize(
    ("kind", "name"),
    [("Recurrent", "lstm"), ("Recurrent", "gru"), ("Recurrent", "elman_relu"), ("torch.nn", "LSTM"),
     ("torch.nn", "GRU"), ("torch.nn", "RNN")],
)  # fmt: skip
def test_second_derivatives_are_the_eager_loops(library, kind, name, options, with_state):
    layer, oracle = pair(kind, name, **options)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    state = state_of(layer, T if layer.batch_first else B) if with_state else None
    assert_close(penalty(layer, x, state), penalty(oracle, x, state))


@pytest.mark.parametrize("name", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_with_lengths(library, name, bidirectional):
    layer, oracle = pair("Recurrent", name, bidirectional=bidirectional, num_layers=2)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    state = state_of(layer, B)
    assert_close(penalty(layer, x, state, lengths=LENGTHS), penalty(oracle, x, state, lengths=LENGTHS))


@pytest.mark.parametrize(("kind", "name"), [("Recurrent", "lstm"), ("torch.nn", "LSTM"), ("torch.nn", "GRU")])
def test_packed(library, kind, name):
    layer, oracle = pair(kind, name)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)

    def packed(layer):
        def run(x, _):
            output, state = layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))
            return pad_packed_sequence(output)[0], state

        run.parameters = layer.parameters
        return run

    def penalty_of(layer):
        run = packed(layer)
        output, final = run(x, None)
        (slope,) = torch.autograd.grad(sum(v.square().sum() for v in (output, *flat(final))), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [x, *layer.parameters()], allow_unused=True)

    assert_close(penalty_of(layer), penalty_of(oracle))


def test_only_a_result_is_used(library):
    layer, oracle = pair("Recurrent", "lstm")
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (layer, oracle):
        (slope,) = torch.autograd.grad(module(x)[1][1].sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x))
    assert_close(*found)


def test_one_weight_in_two_places(library):
    layer, oracle = pair("Recurrent", "elman", num_layers=2)
    for module in (layer, oracle):
        module.weight_hh_l1 = module.weight_hh_l0
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    assert_close(penalty(layer, x, None), penalty(oracle, x, None))


def test_first_derivatives_stay_the_librarys(library, monkeypatch):
    layer, _ = pair("Recurrent", "lstm")
    monkeypatch.setattr(eager, "run", lambda task: pytest.fail("nobody wants second derivatives."))
    output, _ = layer(torch.randn(T, B, I, dtype=torch.float64))
    output.sum().backward(retain_graph=True)
    output.sum().backward()


def test_nothing_is_kept_that_the_graph_would_not_keep(library):
    layer, _ = pair("Recurrent", "lstm")
    x = torch.randn(T, B, I, dtype=torch.float64)
    results = layer(x)
    node, given = weakref.ref(results[0].grad_fn), weakref.ref(x)
    del x
    assert given() is not None
    results[0].sum().backward()
    assert given() is None
    del results
    assert node() is None


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_nothing_is_kept_where_somebody_keeps_it_elsewhere(library, name):
    """torch.autograd.graph.save_on_cpu and torch.utils.checkpoint are there to keep nothing."""
    layer, _ = pair("Recurrent", name)
    x = torch.randn(T, B, I, dtype=torch.float64)
    given = weakref.ref(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.shape, lambda shape: torch.zeros(shape)):
        results = layer(x)
    del x
    assert given() is None
    assert results[0].requires_grad


def test_dropout_between_layers_has_the_librarys_own_error(library):
    layer = gatefuse.Recurrent("lstm", I, H, 2, dropout=0.5, driver="vendor").double()
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="Double backwards is not supported"):
        penalty(layer, x, None)


def test_torch_nn_itself_has_none(library):
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="Double backwards is not supported"):
        penalty(nn.LSTM(I, H).double(), x, None)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_of_cudnn(name, options):
    layer, oracle = [layer.cuda() for layer in pair("torch.nn", name, **options)]
    x = torch.randn(T, B, I, dtype=torch.float64, device="cuda", requires_grad=True)
    assert_close(penalty(layer, x, None), penalty(oracle, x, None))

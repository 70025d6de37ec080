"""Layers to compare, and how: values and gradients alike, in float64."""

import torch
from torch.testing import assert_close

from gatefuse import Recurrent, cell_names, find_cell

T, B, I, H = 6, 4, 3, 5
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
EXACT = ("eager", "script", "aten", "llvm", "vendor")  # the drivers that run float64; step is held to a rule of its own
TORCH = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
    "elman": torch.nn.RNN,
    "elman_relu": lambda *args, **options: torch.nn.RNN(*args, nonlinearity="relu", **options),
}


def pair(cell, driver_name, **options):
    """torch.nn's layer and ours with the same weights, in float64."""
    theirs = TORCH[cell](I, H, dtype=torch.float64, **options)
    ours = Recurrent(cell, I, H, driver=driver_name, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(layer, batched=True):
    """x and the first states, as leaves."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    shape = ((B, T, I) if layer.batch_first else (T, B, I)) if batched else (T, I)
    state_shape = (rows, B, H) if batched else (rows, H)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(state_shape, dtype=torch.float64, requires_grad=True) for _ in layer.cell.states]
    return x, states


def form(states):
    """The states as a layer takes them."""
    return tuple(states) if len(states) > 1 else states[0]


def flat(result):
    """All tensors of a layer's or a cell's result, in order."""
    return [result] if isinstance(result, torch.Tensor) else [tensor for part in result for tensor in flat(part)]


def gradients(result, leaves):
    """Gradients of the leaves for random gradients of the result, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    probes = [torch.rand(v.shape, generator=generator, dtype=torch.float64).to(v.dtype) for v in flat(result)]
    return torch.autograd.grad(flat(result), leaves, probes, allow_unused=True, materialize_grads=True)


def assert_same(ours, theirs, leaves_of_ours, leaves_of_theirs):
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert_close(a, b, **CLOSE)
    for a, b in zip(gradients(ours, leaves_of_ours), gradients(theirs, leaves_of_theirs), strict=True):
        assert_close(a, b, **CLOSE)


def beside(cell, steps, samples, **options):
    """A call's keyword for the inputs beside a cell's gates, from 0 to 1, the same in each call; else none."""
    generator = torch.Generator().manual_seed(3)
    names = find_cell(cell).inputs
    found = {name: torch.rand(steps, samples, generator=generator, dtype=torch.float64) for name in names}
    return {"inputs": {name: a.to(**options) for name, a in found.items()}} if names else {}


WITHOUT_INPUTS = [name for name in cell_names() if not find_cell(name).inputs]

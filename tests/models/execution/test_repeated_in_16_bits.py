"""Calls of a form that came before, in 16 bits: float32's results, rounded once."""

import pytest
import torch
from torch.testing import assert_close

from gatefuse import LSTM, Recurrent
from gatefuse.kernels.drivers.llvm import refusal
from gatefuse.kernels.task import Request
from gatefuse.models.layers.base import Stack
from tests.support.cells_with_inputs import aging
from tests.support.layers import flat

_ANY = Request(LSTM(1, 1).cell, torch.device("cpu"), torch.float32, 1, 1, 1)
pytestmark = pytest.mark.skipif(bool(refusal(_ANY)), reason="no code is compiled here")

T, B, I, H = 4, 2, 3, 5
LAYERS = {
    "LSTM": lambda **o: LSTM(I, H, 2, driver="llvm", **o),
    "slstm": lambda **o: Recurrent("slstm", I, H, driver="llvm", **o),
    "inputs beside the gates": lambda **o: Recurrent(aging, I, H, driver="llvm", **o),
}


def results(layer, x, inputs, state=None):
    """Of a call, and the gradients of its weights where these are wanted."""
    given = {"inputs": {name: a.to(x.dtype) for name, a in inputs.items()}} if inputs else {}
    found = flat(layer(x, state, **given))
    if not found[0].requires_grad:
        return found, []
    probes = [torch.ones_like(value) for value in found]
    return [v.detach() for v in found], list(torch.autograd.grad(found, list(layer.parameters()), probes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("order", ["time first", "batch first", "with gaps"])
@pytest.mark.parametrize("name", LAYERS)
def test_they_are_float32s_rounded_once(monkeypatch, name, order, grad, dtype):
    first = order == "batch first"
    half, single = (LAYERS[name](dtype=d, batch_first=first) for d in (dtype, torch.float32))
    single.load_state_dict(half.state_dict())
    lead = (B, T) if first else (T, B)
    x = torch.randn(*lead, 2 * I).to(dtype)[..., ::2] if order == "with gaps" else torch.randn(*lead, I).to(dtype)
    inputs = {name: torch.rand(lead).to(dtype) for name in half.cell.inputs}
    whole, prepare = [], Stack._prepare
    monkeypatch.setattr(Stack, "_prepare", lambda layer, *given: whole.append(layer) or prepare(layer, *given))
    with torch.set_grad_enabled(grad):
        (_, *states), _ = results(half, x, inputs)
        for state in (None, tuple(states)):
            wide = None if state is None else tuple([s.float() for s in state])
            found, expected = results(half, x, inputs, state), results(single, x.float(), inputs, wide)
            assert {value.dtype for part in found for value in part} == {dtype}
            assert_close(found, tuple([v.to(dtype) for v in part] for part in expected), rtol=0, atol=0)
    assert whole.count(half) == 1  # the first alone went the whole way

"""Backward in eval mode, which attributions need and cuDNN refuses where torch.nn asks for it."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.testing import assert_close

import gatefuse
from gatefuse.kernels.drivers import vendor
from tests.support.layers import flat

T, B, I, H = 5, 3, 4, 6
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


class OnGpu(torch.Tensor):
    """A tensor on the CPU that says it is on a GPU; what is computed of it are plain tensors. Its device stays the CPU,
    where llvm would run."""

    is_cuda = True
    __torch_function__ = torch._C._disabled_torch_function_impl


@pytest.fixture
def ran(monkeypatch):
    """Who ran a call, "torch.nn" or "vendor", and whether the loop was told that it trains."""
    found = []

    def noted(name, function, told=lambda args: None):
        return lambda *args, **options: found.append((name, told(args))) or function(*args, **options)

    monkeypatch.setattr(nn.LSTM, "forward", noted("torch.nn", nn.LSTM.forward))
    monkeypatch.setattr(vendor, "stack", noted("vendor", vendor.stack))
    monkeypatch.setattr(vendor, "packed", noted("vendor", vendor.packed))
    # of the loop's arguments, bools are has_biases, train, bidirectional and, where nothing is packed, batch_first
    train = lambda args: [a for a in args if isinstance(a, bool)][1]  # noqa: E731
    monkeypatch.setattr(torch, "lstm", noted("loop", torch.lstm, train))
    return found


@pytest.mark.parametrize("driver", ["auto", "vendor"])
@pytest.mark.parametrize("packed", [False, True])
def test_on_a_gpu_torch_nn_runs_unless_its_backward_would_be_refused(without_llvm, ran, packed, driver):
    layer = gatefuse.LSTM(I, H, 2, dropout=0.5, driver=driver)
    x = torch.randn(T, B, I)
    if packed:
        x = pack_padded_sequence(x, torch.tensor([T, 3, 1]))
        x = x._replace(data=x.data.as_subclass(OnGpu))
    else:
        x = x.as_subclass(OnGpu)
    assert x.is_cuda
    layer(x)
    layer.eval()
    with torch.no_grad():
        output, state = layer(x)
    assert ran == [("torch.nn", None)] * 2
    found, final = layer(x)
    assert ran[2] == ("vendor", None)
    assert set(ran[3:]) == {("loop", True)}
    assert_close([found.data, *flat(final)], [output.data, *flat(state)])


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("driver", ["auto", "vendor"])
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_gradients_are_those_of_training_without_dropout(name, driver, packed, device):
    plain = getattr(nn, name)(I, H, 2, device=device)
    layer = getattr(gatefuse, name)(I, H, 2, dropout=0.5, driver=driver, device=device).eval()
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(T, B, I, device=device, requires_grad=True)
    found = []
    for module in (layer, plain):
        given = pack_padded_sequence(x, torch.tensor([T, 3, 1])) if packed else x
        output = module(given)[0].data if packed else module(given)[0]
        found.append((output, *torch.autograd.grad(output.square().sum(), [x, *module.parameters()])))
    assert_close(*found)

"""gatefuse.warmup leaves no trace but compiled kernels."""

import pytest
import torch

import gatefuse
from gatefuse import Recurrent


@pytest.mark.parametrize("driver", ["auto", "llvm", "step", "block"])
@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm"])
def test_a_layer_is_as_it_was(cell, driver):
    layer = Recurrent(cell, 3, 4, num_layers=2, dropout=0.5, bidirectional=True, driver=driver, batch_first=True)
    layer.weight_hh_l0.requires_grad_(False)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    random = torch.get_rng_state()
    plan = gatefuse.warmup(layer, 3, 2)
    assert plan.driver == layer.plan(torch.zeros(2, 3, 3)).driver
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert all(p.grad is None for p in layer.parameters())
    assert layer.training


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_options_reach_the_plan():
    layer = gatefuse.LSTM(3, 4)
    assert gatefuse.warmup(layer, 3, 2).driver == "llvm"
    plan = gatefuse.warmup(layer, 3, 2, lengths=True, resets=True, backward=False)
    assert plan.refused["vendor"] == "torch's own loop has no resets"
    assert gatefuse.warmup(gatefuse.LSTM(3, 4, proj_size=2), 3, 2).driver == "vendor"
    assert gatefuse.warmup(Recurrent("gru", 3, 4), 3, 2, all_states=True).driver == "llvm"


def test_without_llvm_torch_s_own_loop_is_warmed_up(without_llvm):
    assert gatefuse.warmup(gatefuse.LSTM(3, 4), 3, 2).driver == "vendor"
    assert gatefuse.warmup(Recurrent("gru", 3, 4), 3, 2, all_states=True).driver == "vendor"


def test_gradients_are_run_where_they_will_be_wanted(monkeypatch):
    seen = []
    layer = Recurrent("gru", 3, 4)
    layer.register_forward_hook(lambda *_: seen.append("hook"))
    run = layer.forward

    def watch(x, *args, **kwargs):
        seen.append((x.requires_grad, torch.is_grad_enabled()))
        return run(x, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", watch)
    gatefuse.warmup(layer, 2, 1)
    with torch.no_grad():
        gatefuse.warmup(layer, 2, 1)
    layer.requires_grad_(False)
    gatefuse.warmup(layer, 2, 1)
    gatefuse.warmup(layer, 2, 1, backward=True)
    assert seen == [(True, True)] * 3 + [(False, False)] * 6 + [(True, True)] * 3


def test_bad_arguments_are_refused():
    with pytest.raises(
        TypeError, match=r"layer must be a layer of gatefuse's, such as Recurrent\. Got torch\.nn\.\S*LSTM\."
    ):
        gatefuse.warmup(torch.nn.LSTM(3, 4), 2, 1)
    with pytest.raises(ValueError, match=r"T must be at least 1\. Got 0\."):
        gatefuse.warmup(Recurrent("gru", 3, 4), 0, 1)
    with pytest.raises(RuntimeError, match="driver vendor can't run this call"):
        gatefuse.warmup(Recurrent("slstm", 3, 4, driver="vendor"), 2, 1)

"""Dynamic quantization, which torch keeps for its very own classes."""

import pytest
import torch
from torch import nn

import gatefuse
from tests.models.test_accelerate import TORCH_WARNS


@pytest.mark.filterwarnings(*TORCH_WARNS)
def test_dynamic_quantization_knows_restored_layers_alone():
    model = nn.Sequential(nn.LSTM(4, 6))
    x = torch.randn(5, 3, 4)
    gatefuse.accelerate(model)
    skipped = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM}, torch.qint8)
    assert type(skipped[0]) is gatefuse.LSTM
    assert torch.equal(skipped(x)[0], model(x)[0])
    gatefuse.restore(model)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM}, torch.qint8)
    assert isinstance(quantized[0], torch.ao.nn.quantized.dynamic.LSTM)

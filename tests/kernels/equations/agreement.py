"""Agreement of every driver with a plain loop over a cell's equations, in numbers and gradients, or its refusal."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from gatefuse import Recurrent
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.recurrence import Recurrence

B, I, H = 2, 3, 5
DRIVERS = ("eager", "auto", "aten", "llvm", "script")
STEPS = (3, 20)  # auto without llvm takes the Python loop for the first, generated operators for the second


def by_hand(layer, x, h):
    """The equations in a plain loop, a copy of the state for each step."""
    outputs = []
    cell = layer.cell
    R = Recurrence(cell.recurrent_gates, layer.weight_hh_l0, layer.bias_hh_l0, cell.gates)
    for step in nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0):
        h = cell.equations(Gates(cell.input_gates, step, whole=cell.gates), R, h.clone())
        outputs.append(h)
    return torch.stack(outputs)


def gradients(layer, output):
    layer.zero_grad()
    output.square().sum().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in layer.parameters()]


def agree(unit, *, refused=""):
    """Every driver that takes the cell agrees with the plain loop; the others refuse it for that reason."""
    layer = Recurrent(unit, I, H, dtype=torch.float64)
    for T in STEPS:
        x, h = torch.randn(T, B, I, dtype=torch.float64), torch.randn(1, B, H, dtype=torch.float64)
        expected = by_hand(layer, x, h[0])
        d_expected = gradients(layer, expected)
        plan = layer.plan(x, h)
        assert refused in plan.refused.get("script", "")
        for driver in DRIVERS:
            layer.driver = driver
            if refused and driver in ("aten", "llvm", "script"):
                with pytest.raises(RuntimeError, match=f"driver {driver} can't run this call"):
                    layer(x, h)
                continue
            before = h.clone()
            output, _ = layer(x, h)
            assert torch.equal(h, before)
            assert_close(output, expected)
            assert_close(gradients(layer, output), d_expected)
        layer.driver = "auto"

"""torch.nn's pointwise activations as equations, of which code is made as of a cell's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, clamp, nn, relu, sigmoid, tanh

from gatefuse.kernels.cell import Cell, cell
from gatefuse.kernels.equations.operators import TranslationError

# By class, the function of a module's settings and of x.
_FUNCTIONS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.ReLU: lambda m, x: relu(x),
    nn.ReLU6: lambda m, x: clamp(x, 0.0, 6.0),
    nn.Hardtanh: lambda m, x: clamp(x, m.min_val, m.max_val),
    nn.Tanh: lambda m, x: tanh(x),
    nn.Sigmoid: lambda m, x: sigmoid(x),
    nn.LogSigmoid: lambda m, x: nn.functional.logsigmoid(x),
    nn.SiLU: lambda m, x: x * sigmoid(x),
    nn.Hardsigmoid: lambda m, x: clamp(x + 3, 0.0, 6.0) / 6,
    nn.Hardswish: lambda m, x: x * clamp(x + 3, 0.0, 6.0) / 6,
    nn.LeakyReLU: lambda m, x: torch.where(x > 0, x, x * m.negative_slope),
    nn.ELU: lambda m, x: torch.where(x > 0, x, m.alpha * torch.expm1(x)),
    nn.Softplus: lambda m, x: torch.where(x * m.beta > m.threshold, x, torch.log1p(torch.exp(x * m.beta)) / m.beta),
    nn.Softsign: lambda m, x: x / (1 + torch.abs(x)),
    nn.GELU: lambda m, x: _gelu(m.approximate, x),
}
ACTIVATIONS = tuple(_FUNCTIONS)


def _gelu(approximate: str, x: Tensor) -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + torch.erf(x * 0.7071067811865476))


def activation_cell(module: nn.Module | None) -> Cell:
    """A cell of no products with the activation as its one new state, of x as it is; the identity of None.

    Raises:
        TranslationError: no code can be made of the activation.
    """
    function = (lambda m, x: x) if module is None else _FUNCTIONS[type(module)]

    @cell(gates="a")
    def activation(x, R, h):
        return function(module, x.a)

    if activation.refusal:
        raise TranslationError(activation.refusal)
    return activation

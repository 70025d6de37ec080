"""Cells with inputs beside their gates that only tests know, and their layers written out by hand."""

import torch
from torch import Tensor, exp, sigmoid, tanh

from gatefuse import cell


@cell(gates="u n", inputs="a")
def scored(x, R, h):
    """A score scales the update; two products in a row"""
    u = x.a * sigmoid(x.u + R.u(h))
    n = tanh(x.n + R.n(u * h))
    return (1 - u) * h + u * n


@cell(gates="i f g:x o:R", inputs="age left", init={"c": 0.25})
def aging(x, R, h, c, *, rate):
    """Two inputs, one of them divided by, one-sided gates, a parameter"""
    i, f, g, o = x + R(h)
    c = exp(-x.age * rate**2) * sigmoid(f) * c + sigmoid(i) * tanh(g) / (1 + x.left)
    return sigmoid(o) * tanh(c), c


def scored_by_hand(layer, x: Tensor, inputs: dict[str, Tensor], state: Tensor, suffix: str = "_l0"):
    """Each step's state, from x (T, B, I) and inputs (T, B, H)."""
    W, U, b, c = (getattr(layer, f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    (U_u, U_n), (c_u, c_n) = U.chunk(2), c.chunk(2)
    h, steps = state, []
    for x_t, a in zip(x, inputs["a"], strict=True):
        x_u, x_n = (x_t @ W.T + b).chunk(2, 1)
        u = a * sigmoid(x_u + h @ U_u.T + c_u)
        n = tanh(x_n + (u * h) @ U_n.T + c_n)
        h = (1 - u) * h + u * n
        steps.append((h,))
    return steps


def aging_by_hand(layer, x: Tensor, inputs: dict[str, Tensor], state: tuple[Tensor, Tensor], suffix: str = "_l0"):
    """As scored_by_hand, of both states."""
    W, U, b, d = (getattr(layer, f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    rate = getattr(layer, f"rate{suffix}")
    (h, c), steps = state, []
    for x_t, age, left in zip(x, inputs["age"], inputs["left"], strict=True):
        x_i, x_f, g = (x_t @ W.T + b).chunk(3, 1)
        r_i, r_f, o = (h @ U.T + d).chunk(3, 1)
        c = exp(-age * rate**2) * sigmoid(x_f + r_f) * c + sigmoid(x_i + r_i) * tanh(g) / (1 + left)
        h = sigmoid(o) * tanh(c)
        steps.append((h, c))
    return steps


def wide(value: Tensor, T: int, B: int, H: int) -> Tensor:
    """An input as (T, B, H)."""
    return (value if value.dim() == 3 else value.unsqueeze(-1)).expand(T, B, H)


def draw(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers from 0 to 1, as scores and times are."""
    return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

"""Activations of torch.nn.functional that are made of other operations, with the gradients that torch gives them.

In a branch that isn't taken nothing grows beyond bounds: TorchScript differentiates it too, and 0 * inf is no number.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

from gatefuse.kernels.equations.expression import Expr

Make = Callable[..., Expr]


def _softplus(make: Make, x: Any, beta: float = 1, threshold: float = 20) -> Expr:
    scaled = make("mul", x, beta)
    below = make("div", make("log1p", make("exp", make("clamp_max", scaled, threshold))), beta)
    return make("where", make("gt", scaled, threshold), x, below)


def _softplus_backward(make: Make, g: Any, x: Any, beta: float, threshold: float) -> Expr:
    scaled = make("mul", x, beta)
    return make("where", make("gt", scaled, threshold), g, make("mul", g, make("sigmoid", scaled)))


def _silu(make: Make, x: Any) -> Expr:
    return make("mul", x, make("sigmoid", x))


def _silu_backward(make: Make, g: Any, x: Any) -> Expr:
    s = make("sigmoid", x)
    return make("mul", g, make("mul", s, make("add", 1.0, make("mul", x, make("sub", 1.0, s)))))


def _gelu(make: Make, x: Any, approximate: str = "none") -> Expr:
    half = make("mul", 0.5, x)
    return make("mul", half, make("add", 1.0, _inner(make, x, approximate)))


def _inner(make: Make, x: Any, approximate: str) -> Expr:
    """The error function of x / sqrt(2), or what stands for it."""
    if approximate == "none":
        return make("erf", make("mul", x, sqrt(0.5)))
    return make("tanh", make("mul", sqrt(2 / pi), make("add", x, make("mul", 0.044715, _power(make, x, 3)))))


def _gelu_backward(make: Make, g: Any, x: Any, approximate: str = "none") -> Expr:
    inner = _inner(make, x, approximate)
    if approximate == "none":
        density = make("mul", make("exp", make("mul", -0.5, make("mul", x, x))), sqrt(2 / pi))
    else:
        slope = make("mul", sqrt(2 / pi), make("add", 1.0, make("mul", 3 * 0.044715, make("mul", x, x))))
        density = make("mul", slope, make("sub", 1.0, make("mul", inner, inner)))
    whole = make("add", make("add", 1.0, inner), make("mul", x, density))
    return make("mul", g, make("mul", 0.5, whole))


def _power(make: Make, x: Any, exponent: int) -> Any:
    return x if exponent == 1 else make("mul", x, _power(make, x, exponent - 1))


def _elu(make: Make, x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Expr:
    below = make("mul", make("expm1", make("mul", make("clamp_max", x, 0.0), input_scale)), alpha * scale)
    return make("where", make("gt", x, 0.0), make("mul", x, scale), below)


def _elu_backward(
    make: Make, g: Any, alpha: float, scale: float, input_scale: float, is_result: bool, given: Any
) -> Expr:
    if is_result:
        below = make("mul", make("add", given, alpha * scale), input_scale)
    else:
        below = make("mul", make("exp", make("mul", given, input_scale)), input_scale * alpha * scale)
    return make("where", make("le", given, 0.0), make("mul", g, below), make("mul", g, scale))


def _leaky_relu(make: Make, x: Any, slope: float = 0.01) -> Expr:
    return make("where", make("gt", x, 0.0), x, make("mul", x, slope))


def _leaky_relu_backward(make: Make, g: Any, x: Any, slope: float, is_result: bool) -> Expr:
    return make("where", make("gt", x, 0.0), g, make("mul", g, slope))


def _hardtanh(make: Make, x: Any, low: float = -1, high: float = 1) -> Expr:
    # not by clamp, whose gradient at the bounds is another
    return make("where", make("le", x, low), low, make("where", make("ge", x, high), high, x))


def _hardtanh_backward(make: Make, g: Any, x: Any, low: float, high: float) -> Expr:
    outside = make("or", make("le", x, low), make("ge", x, high))
    return make("where", outside, 0.0, g)


def _hardsigmoid(make: Make, x: Any) -> Expr:
    return make("div", _hardtanh(make, make("add", x, 3.0), 0.0, 6.0), 6.0)


def _hardsigmoid_backward(make: Make, g: Any, x: Any) -> Expr:
    inside = make("and", make("gt", x, -3.0), make("lt", x, 3.0))
    return make("where", inside, make("div", g, 6.0), 0.0)


# By the names that ATen gives them and their gradients.
ACTIVATIONS: dict[str, Callable[..., Expr]] = {
    "softplus": _softplus,
    "softplus_backward": _softplus_backward,
    "silu": _silu,
    "silu_backward": _silu_backward,
    "gelu": _gelu,
    "gelu_backward": _gelu_backward,
    "elu": _elu,
    "celu": lambda make, x, alpha=1.0: _elu(make, x, alpha, 1.0, 1.0 / alpha),
    "elu_backward": _elu_backward,
    "leaky_relu": _leaky_relu,
    "leaky_relu_backward": _leaky_relu_backward,
    "hardtanh": _hardtanh,
    "hardtanh_backward": _hardtanh_backward,
    "hardsigmoid": _hardsigmoid,
    "hardsigmoid_backward": _hardsigmoid_backward,
}

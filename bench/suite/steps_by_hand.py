"""A step of every shipped cell as a careful person writes it in plain PyTorch, with as few operations as the equations
allow. Nothing here uses a cell, a driver or an equation of gatefuse's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, sigmoid, tanh
from torch.nn.functional import layer_norm, logsigmoid


class Weights(NamedTuple):
    """One layer's and direction's parameters.

    Attributes:
        W: of the input (I, G * H), with the bias b (G * H,) that is added to its product.
        U: of the state (H, G * H), in the pieces that a step multiplies by; of heads (heads, H / heads, G * H / heads).
        b_n: a recurrent bias that is not merely added (G * H,); None where all are.
        own: further vectors of a cell.
    """

    W: Tensor
    b: Tensor
    U: tuple[Tensor, ...]
    b_n: Tensor | None
    own: tuple[Tensor, ...]


class Step(NamedTuple):
    """A cell's step.

    Attributes:
        run: (x, weights, *states) -> the next states, the output first. x holds the input's part of the gates,
            (B, its gates * H) in each piece.
        gates: how many each piece of x has.
        recurrent: the same for the pieces of U; () where they are x's.
        states: how many (B, H) there are.
        apart: the recurrent bias is not merely added.
        deaf: gates, by number, that hear no recurrent bias.
        own: names of further vectors; several are one (n * H,), side by side.
        ahead: what is made of x's pieces (T, B, gates * H) before the steps.
        inputs: how many it is given beside the gates, each a further piece of x, (B, 1).
    """

    run: Callable[..., tuple[Tensor, ...]]
    gates: tuple[int, ...]
    recurrent: tuple[int, ...] = ()
    states: int = 1
    apart: bool = False
    deaf: tuple[int, ...] = ()
    own: tuple[str | tuple[str, ...], ...] = ()
    ahead: Callable[[Sequence[Tensor], Weights], Sequence[Tensor]] = lambda pieces, _: pieces
    inputs: int = 0


def heard(x: Tensor | float, h: Tensor, U: Tensor) -> Tensor:
    """x + h U, (B, G * H), with gates side by side, of heads too."""
    if U.dim() == 2:
        return h @ U if isinstance(x, float) else torch.addmm(x, h, U)
    heads, units, columns = U.shape
    y = torch.bmm(h.view(-1, heads, units).transpose(0, 1), U).view(heads, -1, columns // units, units)
    return x + y.permute(1, 2, 0, 3).flatten(1)


def _elman(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    return (tanh(heard(x[0], h, w.U[0])),)


def _elman_relu(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    return (torch.relu(heard(x[0], h, w.U[0])),)


def _lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    i, f, g, o = heard(x[0], h, w.U[0]).chunk(4, 1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _gru(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    assert w.b_n is not None
    H = h.shape[1]
    y_rz, y_n = heard(w.b_n, h, w.U[0]).split((2 * H, H), 1)
    r, z = sigmoid(x[0] + y_rz).chunk(2, 1)
    n = tanh(x[1] + r * y_n)
    return (n + z * (h - n),)


def _gru_reset_first(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    r, z = sigmoid(heard(x[0], h, w.U[0])).chunk(2, 1)
    n = tanh(heard(x[1], r * h, w.U[1]))
    return (n + z * (h - n),)


def _peephole_lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    p_i, p_f, p_o = w.own
    i, f, g, o = heard(x[0], h, w.U[0]).chunk(4, 1)
    c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    return sigmoid(o + p_o * c) * tanh(c), c


def _article_peephole_lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    i, f = sigmoid(heard(x[0], c, w.U[0])).chunk(2, 1)
    o = sigmoid(heard(x[2], c, w.U[2]))
    c = f * c + i * sigmoid(x[1])
    return tanh(o * c), c


def _slstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, ...]:
    i, f, z, o = heard(x[0], h, w.U[0]).chunk(4, 1)
    kept = logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(i, kept))
    i, f = torch.exp(i - m), torch.exp((kept - m).clamp(max=0))
    c = f * c + i * tanh(z)
    n = f * n + i
    return sigmoid(o) * c / n, c, n, m


def _cifg_lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    i, g, o = heard(x[0], h, w.U[0]).chunk(3, 1)
    c = c + sigmoid(i) * (tanh(g) - c)
    return sigmoid(o) * tanh(c), c


def _minimal_gated_unit(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    f = sigmoid(heard(x[0], h, w.U[0]))
    n = tanh(heard(x[1], f * h, w.U[1]))
    return (h + f * (n - h),)


def _li_gru(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    z, n = heard(x[0], h, w.U[0]).chunk(2, 1)
    n = torch.relu(n)
    return (n + sigmoid(z) * (h - n),)


def _ind_rnn(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    return (torch.relu(torch.addcmul(x[0], w.own[0], h)),)


def _min_gru(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    return (h + sigmoid(x[0]) * (x[1] - h),)


def _min_lstm(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    f, i = sigmoid(x[0]).chunk(2, 1)
    return ((f * h + i * x[1]) / (f + i),)


def _sru(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    v_f, v_r = w.own
    f, r = sigmoid(torch.addcmul(x[0], v_f, c)), sigmoid(torch.addcmul(x[1], v_r, c))
    c = x[2] + f * (c - x[2])
    return x[3] + r * (c - x[3]), c


def _augru(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    assert w.b_n is not None
    H = h.shape[1]
    y_ur, y_n = heard(w.b_n, h, w.U[0]).split((2 * H, H), 1)
    u, r = sigmoid(x[0] + y_ur).chunk(2, 1)
    n = tanh(torch.addcmul(x[1], r, y_n))
    return (h + x[2] * u * (n - h),)


def _gru_d(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    h = torch.exp(-torch.relu(x[2])) * h
    z, r = sigmoid(heard(x[0], h, w.U[0])).chunk(2, 1)
    n = tanh(heard(x[1], r * h, w.U[1]))
    return (h + z * (n - h),)


def _cfc(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    H = h.shape[1]
    f, gk = heard(x[0], h, w.U[0]).split((H, 2 * H), 1)
    g, k = tanh(gk).chunk(2, 1)
    return (k + sigmoid(-f * x[1]) * (g - k),)


def _layer_norm_lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    _, gain, bias, c_gain, c_bias = w.own
    i, f, g, o = (x[0] + layer_norm(heard(0.0, h, w.U[0]), gain.shape, gain, bias)).chunk(4, 1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(layer_norm(c, c_gain.shape, c_gain, c_bias)), c


def _layer_norm_gru(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    _, gain, bias, _, _, n_gain, n_bias = w.own
    H = h.shape[1]
    y_rz, y_n = heard(0.0, h, w.U[0]).split((2 * H, H), 1)
    r, z = sigmoid(x[0] + layer_norm(y_rz, gain.shape, gain, bias)).chunk(2, 1)
    n = tanh(x[1] + r * layer_norm(y_n, n_gain.shape, n_gain, n_bias))
    return (h + z * (n - h),)


def _normalized_lstm(pieces: Sequence[Tensor], w: Weights) -> Sequence[Tensor]:
    return [layer_norm(pieces[0], w.own[0].shape, w.own[0])]


def _normalized_gru(pieces: Sequence[Tensor], w: Weights) -> Sequence[Tensor]:
    gain, _, _, n_gain, n_bias, _, _ = w.own
    return [layer_norm(pieces[0], gain.shape, gain), layer_norm(pieces[1], n_gain.shape, n_gain, n_bias)]


def _of_gates(form: str, gates: str) -> tuple[str, ...]:
    return tuple([form.format(gate) for gate in gates])


STEPS = {
    "elman": Step(_elman, (1,)),
    "elman_relu": Step(_elman_relu, (1,)),
    "lstm": Step(_lstm, (4,), states=2),
    "gru": Step(_gru, (2, 1), recurrent=(3,), apart=True),
    "gru_reset_first": Step(_gru_reset_first, (2, 1)),
    "peephole_lstm": Step(_peephole_lstm, (4,), states=2, own=("p_i", "p_f", "p_o")),
    "article_peephole_lstm": Step(_article_peephole_lstm, (2, 1, 1), states=2, deaf=(2,)),
    "slstm": Step(_slstm, (4,), states=4),
    "cifg_lstm": Step(_cifg_lstm, (3,), states=2),
    "minimal_gated_unit": Step(_minimal_gated_unit, (1, 1)),
    "li_gru": Step(_li_gru, (2,)),
    "ind_rnn": Step(_ind_rnn, (1,), recurrent=(0,), own=("u",)),
    "min_gru": Step(_min_gru, (1, 1), recurrent=(0,)),
    "min_lstm": Step(_min_lstm, (2, 1), recurrent=(0,)),
    "sru": Step(_sru, (1, 1, 1, 1), recurrent=(0,), states=2, own=("v_f", "v_r")),
    "augru": Step(_augru, (2, 1), recurrent=(3,), apart=True, inputs=1),
    "gru_d": Step(_gru_d, (2, 1), inputs=1),
    "cfc": Step(_cfc, (3,), inputs=1),
    "layer_norm_lstm": Step(
        _layer_norm_lstm,
        (4,),
        states=2,
        own=(*(_of_gates(form, "ifgo") for form in ("x_gain_{}", "h_gain_{}", "b_{}")), "c_gain", "c_b"),
        ahead=_normalized_lstm,
    ),
    "layer_norm_gru": Step(
        _layer_norm_gru,
        (2, 1),
        recurrent=(3,),
        own=(
            *(_of_gates(form, "rz") for form in ("x_gain_{}", "h_gain_{}", "b_{}")),
            *("x_gain_n", "b_n", "h_gain_n", "h_b_n"),
        ),
        ahead=_normalized_gru,
    ),
}

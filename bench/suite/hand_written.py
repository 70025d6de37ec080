"""Every shipped cell's network as a careful person writes it in plain PyTorch: the loop that speed-ups are over.

Nothing here uses a cell, a driver or an equation of gatefuse's. A step has as few operations as the equations allow,
and the product of the input is made for all steps at once, as the loops that articles and books print do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.functional import logsigmoid

from gatefuse.bench.suite.contender import Network, inputs
from gatefuse.bench.suite.sweeps import Group


class Weights(NamedTuple):
    """One layer's and direction's parameters.

    Attributes:
        W: of the input (I, G * H), with the bias b (G * H,) that is added to its product.
        U: of the state (H, G * H), in the pieces that a step multiplies by.
        b_n: a recurrent bias that is not merely added (G * H,); None where all are.
        own: further vectors (H,) of a cell.
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
        own: names of further vectors.
        inputs: how many it is given beside the gates, each a further piece of x, (B, 1).
    """

    run: Callable[..., tuple[Tensor, ...]]
    gates: tuple[int, ...]
    recurrent: tuple[int, ...] = ()
    states: int = 1
    apart: bool = False
    deaf: tuple[int, ...] = ()
    own: tuple[str, ...] = ()
    inputs: int = 0


def _elman(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    return (tanh(torch.addmm(x[0], h, w.U[0])),)


def _elman_relu(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    return (torch.relu(torch.addmm(x[0], h, w.U[0])),)


def _lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    i, f, g, o = torch.addmm(x[0], h, w.U[0]).chunk(4, 1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _gru(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    assert w.b_n is not None
    H = h.shape[1]
    y_rz, y_n = torch.addmm(w.b_n, h, w.U[0]).split((2 * H, H), 1)
    r, z = sigmoid(x[0] + y_rz).chunk(2, 1)
    n = tanh(x[1] + r * y_n)
    return (n + z * (h - n),)


def _gru_reset_first(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    r, z = sigmoid(torch.addmm(x[0], h, w.U[0])).chunk(2, 1)
    n = tanh(torch.addmm(x[1], r * h, w.U[1]))
    return (n + z * (h - n),)


def _peephole_lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    p_i, p_f, p_o = w.own
    i, f, g, o = torch.addmm(x[0], h, w.U[0]).chunk(4, 1)
    c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    return sigmoid(o + p_o * c) * tanh(c), c


def _article_peephole_lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    i, f = sigmoid(torch.addmm(x[0], c, w.U[0])).chunk(2, 1)
    o = sigmoid(torch.addmm(x[2], c, w.U[2]))
    c = f * c + i * sigmoid(x[1])
    return tanh(o * c), c


def _slstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, ...]:
    i, f, z, o = torch.addmm(x[0], h, w.U[0]).chunk(4, 1)
    kept = logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(i, kept))
    i, f = torch.exp(i - m), torch.exp((kept - m).clamp(max=0))
    c = f * c + i * tanh(z)
    n = f * n + i
    return sigmoid(o) * c / n, c, n, m


def _cifg_lstm(x: Sequence[Tensor], w: Weights, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    i, g, o = torch.addmm(x[0], h, w.U[0]).chunk(3, 1)
    c = c + sigmoid(i) * (tanh(g) - c)
    return sigmoid(o) * tanh(c), c


def _minimal_gated_unit(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    f = sigmoid(torch.addmm(x[0], h, w.U[0]))
    n = tanh(torch.addmm(x[1], f * h, w.U[1]))
    return (h + f * (n - h),)


def _li_gru(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    z, n = torch.addmm(x[0], h, w.U[0]).chunk(2, 1)
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
    y_ur, y_n = torch.addmm(w.b_n, h, w.U[0]).split((2 * H, H), 1)
    u, r = sigmoid(x[0] + y_ur).chunk(2, 1)
    n = tanh(torch.addcmul(x[1], r, y_n))
    return (h + x[2] * u * (n - h),)


def _gru_d(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    h = torch.exp(-torch.relu(x[2])) * h
    z, r = sigmoid(torch.addmm(x[0], h, w.U[0])).chunk(2, 1)
    n = tanh(torch.addmm(x[1], r * h, w.U[1]))
    return (h + z * (n - h),)


def _cfc(x: Sequence[Tensor], w: Weights, h: Tensor) -> tuple[Tensor, ...]:
    H = h.shape[1]
    f, gk = torch.addmm(x[0], h, w.U[0]).split((H, 2 * H), 1)
    g, k = tanh(gk).chunk(2, 1)
    return (k + sigmoid(-f * x[1]) * (g - k),)


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
}


def build(group: Group, source: nn.Module) -> Network:
    """The network of a group, with the source's weights."""
    s, step = group.shape, STEPS[group.shape.cell]
    held = source.state_dict()
    sides = ("", "_reverse") if s.bidirectional else ("",)
    layers = [[_weights(step, held, f"_l{layer}{side}") for side in sides] for layer in range(s.layers)]
    like = next(iter(held.values()))
    beside = list(inputs(group, like).values())
    live = None
    if s.lengths:
        steps, lengths = torch.arange(s.T, device=like.device), torch.tensor(s.lengths, device=like.device)
        live = (steps[:, None] < lengths)[:, :, None].unbind()

    def forward(x: Tensor) -> Tensor:
        for weights in layers:
            outputs = [_direction(step, x, own, k == 1, live, beside) for k, own in enumerate(weights)]
            x = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
        return x

    each = (w for weights in layers for w in weights)
    return Network(forward, tuple(p for w in each for p in (w.W, w.b, *w.U, w.b_n, *w.own) if p is not None))


def _weights(step: Step, held: dict[str, Tensor], end: str) -> Weights:
    def leaf(value: Tensor) -> Tensor:
        return value.clone().requires_grad_()

    W, R, b, b_n = (held[f"{name}{end}"].detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    H = R.shape[1]
    if b_n.numel() and not step.apart:
        heard = b_n.clone()
        for gate in step.deaf:
            heard[gate * H : (gate + 1) * H] = 0
        b = b + heard
    pieces = R.t().split([gates * H for gates in step.recurrent or step.gates], 1)
    own = tuple(leaf(held[f"{name}{end}"]) for name in step.own)
    return Weights(leaf(W.t()), leaf(b), tuple(map(leaf, pieces)), leaf(b_n) if step.apart else None, own)


def _direction(
    step: Step, x: Tensor, w: Weights, reverse: bool, live: Sequence[Tensor] | None, beside: Sequence[Tensor]
) -> Tensor:
    """x (T, B, I) and inputs (T, B) -> outputs (T, B, H), zero where live (B, 1) of a step isn't."""
    (T, B), H = x.shape[:2], w.U[0].shape[0]
    gates = torch.addmm(w.b, x.reshape(T * B, -1), w.W).view(T, B, -1)
    pieces = [piece.unbind() for piece in gates.split([n * H for n in step.gates], 2)]
    pieces += [a.unsqueeze(2).unbind() for a in beside]
    states = (x.new_zeros(B, H),) * step.states
    outputs = [states[0]] * T
    for t in reversed(range(T)) if reverse else range(T):
        new = step.run([piece[t] for piece in pieces], w, *states)
        if live is None:
            states, outputs[t] = new, new[0]
        else:
            states = tuple(torch.where(live[t], *pair) for pair in zip(new, states, strict=True))
            outputs[t] = torch.where(live[t], new[0], 0.0)
    return torch.stack(outputs)

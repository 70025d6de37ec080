"""Every shipped cell's network as a careful person writes it in plain PyTorch: the loop that speed-ups are over.

A step is one of steps_by_hand.py, and the product of the input is made for all steps at once, as the loops that
articles and books print do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatefuse.bench.suite.contender import Network, inputs
from gatefuse.bench.suite.steps_by_hand import STEPS, Step, Weights
from gatefuse.bench.suite.sweeps import Group


def build(group: Group, source: nn.Module) -> Network:
    """The network of a group, with the source's weights."""
    s, step = group.shape, STEPS[group.shape.cell]
    held = source.state_dict()
    sides = ("", "_reverse") if s.bidirectional else ("",)
    layers = [[_weights(step, held, f"_l{layer}{side}", s.heads) for side in sides] for layer in range(s.layers)]
    like = next(iter(held.values()))
    beside = list(inputs(group, like).values())
    live = None
    if s.lengths:
        steps, lengths = torch.arange(s.T, device=like.device), torch.tensor(s.lengths, device=like.device)
        live = (steps[:, None] < lengths)[:, :, None].unbind()

    def forward(x: Tensor) -> Tensor:
        for weights in layers:
            outputs = [_direction(step, x, own, s.H, k == 1, live, beside) for k, own in enumerate(weights)]
            x = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
        return x

    each = (w for weights in layers for w in weights)
    return Network(forward, tuple(p for w in each for p in (w.W, w.b, *w.U, w.b_n, *w.own) if p is not None))


def _weights(step: Step, held: dict[str, Tensor], end: str, heads: int) -> Weights:
    def leaf(value: Tensor) -> Tensor:
        return value.clone().requires_grad_()

    W, R, b, b_n = (held[f"{name}{end}"].detach() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    H = R.shape[1] * heads
    if b_n.numel() and not step.apart:
        heard = b_n.clone()
        for gate in step.deaf:
            heard[gate * H : (gate + 1) * H] = 0
        b = b + heard
    pieces = [_by_heads(piece, heads) for piece in R.split([gates * H for gates in step.recurrent or step.gates])]
    own = tuple(
        leaf(torch.cat([held[f"{name}{end}"] for name in ((names,) if isinstance(names, str) else names)]))
        for names in step.own
    )
    b = b if b.numel() else W.new_zeros(W.shape[0])
    return Weights(leaf(W.t()), leaf(b), tuple(map(leaf, pieces)), leaf(b_n) if step.apart else None, own)


def _by_heads(piece: Tensor, heads: int) -> Tensor:
    """Rows of some gates (gates * H, H / heads) as a step multiplies by them."""
    if heads == 1:
        return piece.t()
    units = piece.shape[1]
    return piece.view(-1, heads, units, units).permute(1, 3, 0, 2).reshape(heads, units, -1)


def _direction(
    step: Step, x: Tensor, w: Weights, H: int, reverse: bool, live: Sequence[Tensor] | None, beside: Sequence[Tensor]
) -> Tensor:
    """x (T, B, I) and inputs (T, B) -> outputs (T, B, H), zero where live (B, 1) of a step isn't."""
    T, B = x.shape[:2]
    gates = torch.addmm(w.b, x.reshape(T * B, -1), w.W).view(T, B, -1)
    pieces = [piece.unbind() for piece in step.ahead(gates.split([n * H for n in step.gates], 2), w)]
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

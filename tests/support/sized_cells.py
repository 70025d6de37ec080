"""Cells with values of other sizes than H, and the same by hand: plain loops over equations with their true sizes."""

import torch
from torch import Tensor, sigmoid, tanh
from torch.nn.functional import linear

import gatefuse


@gatefuse.cell(gates="b:x a p:R", sizes={"slow": "s b"}, constants={"alpha": 0.95}, bias="a p")
def scrn(x, R, h, s, *, alpha):
    """Structurally constrained recurrent network, T. Mikolov et al. 2014, arXiv:1412.7753: a slow context beside h."""
    s = (1 - alpha) * x.b + alpha * s
    return sigmoid(x.a + R.a(h) + R.p(s)), s


@gatefuse.cell(gates="i f g o p:R", sizes={"projected": "h p"}, bias="i f g o")
def projected_lstm(x, R, h, c):
    """LSTM whose output is projected within its equations, H. Sak et al. 2014, arXiv:1402.1128."""
    a = x + R(h)
    c = sigmoid(a.f) * c + sigmoid(a.i) * tanh(a.g)
    return R.p(sigmoid(a.o) * tanh(c)), c


@gatefuse.cell(
    gates="n p:R e:x u:R v:R w:R", sizes={"memory": "m v w theta", "one": "e u k"}, init={"m": 0.5}, scalars="k"
)
def legendre(x, R, h, m, *, theta, k):
    """The shape of a Legendre memory unit, A. Voelker et al. 2019: a memory m, written by one number, beside h."""
    written = k * (x.e + R.u(h))
    m = m + theta * (R.v(m) + R.w(written))
    return tanh(x.n + R.n(h) + R.p(m)), m


@gatefuse.cell(gates="n z:x", sizes={"slow": "s z gain age"}, inputs="age score")
def timed(x, R, h, s, *, gain):
    """Parameters and inputs of another size."""
    s = torch.exp(-x.age) * s + gain * sigmoid(x.z)
    return (1 - x.score) * h + x.score * tanh(x.n + R.n(s)), s


UNITS = {
    "scrn": {"slow": 3},
    "projected_lstm": {"projected": 2},
    "legendre": {"memory": 7, "one": 1},
    "timed": {"slow": 8},
}
CELLS = {cell.name: cell for cell in (scrn, projected_lstm, legendre, timed)}


class Plain:
    """One direction's step of a cell in plain torch, of a layer's parameters by their names; units by name."""

    def __init__(self, layer, suffix: str, R=None):
        self.product = R
        self.cell, self.bias = layer.cell, layer.bias
        cell, own = layer.cell, {n.removesuffix(suffix): p for n, p in layer.named_parameters() if n.endswith(suffix)}
        self.named = {name: own[name] for name in cell.parameters}
        sizes = {name: size for size, names in cell.declaration.sizes for name in names}
        number = {"": layer.hidden_size, **UNITS[cell.name]}

        def by_gate(rows: Tensor, gates) -> dict[str, Tensor]:
            parts = rows.split([number[sizes.get(gate, "")] for gate in gates])
            return dict(zip(gates, parts, strict=True))

        multiplied = VECTORS[cell.name]
        self.W = by_gate(own["weight_ih"], cell.input_gates)
        self.U = {}
        for size in dict.fromkeys(["", *number]):
            gates = [gate for gate in cell.recurrent_gates if multiplied[gate] == size]
            if gates:
                self.U |= by_gate(own[f"weight_hh_{size}" if size else "weight_hh"], gates)
        self.b = by_gate(own["bias_ih"], cell.input_biases) if self.bias else {}
        self.c = by_gate(own["bias_hh"], cell.recurrent_biases) if self.bias else {}

    def x(self, gate: str, x: Tensor) -> Tensor:
        return linear(x, self.W[gate], self.b.get(gate))

    def R(self, gate: str, v: Tensor) -> Tensor:
        return linear(v, self.U[gate], self.c.get(gate)) if self.product is None else self.product(self, gate, v)

    def step(self, x: Tensor, states, inputs):
        return STEPS[self.cell.name](self, x, *states, **self.named, **inputs)


def _scrn(w: Plain, x, h, s):
    s = 0.05 * w.x("b", x) + 0.95 * s
    return sigmoid(w.x("a", x) + w.R("a", h) + w.R("p", s)), s


def _projected_lstm(w: Plain, x, h, c):
    i, f, g, o = (w.x(gate, x) + w.R(gate, h) for gate in "ifgo")
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return w.R("p", sigmoid(o) * tanh(c)), c


def _legendre(w: Plain, x, h, m, theta, k):
    written = k * (w.x("e", x) + w.R("u", h))
    m = m + theta * (w.R("v", m) + w.R("w", written))
    return tanh(w.x("n", x) + w.R("n", h) + w.R("p", m)), m


def _timed(w: Plain, x, h, s, gain, age, score):
    s = torch.exp(-age) * s + gain * sigmoid(w.x("z", x))
    return (1 - score) * h + score * tanh(w.x("n", x) + w.R("n", s)), s


STEPS = {"scrn": _scrn, "projected_lstm": _projected_lstm, "legendre": _legendre, "timed": _timed}
VECTORS = {
    "scrn": {"a": "", "p": "slow"},
    "projected_lstm": {**dict.fromkeys("ifgo", "projected"), "p": ""},
    "legendre": {"n": "", "p": "memory", "u": "", "v": "memory", "w": "one"},
    "timed": {"n": "slow"},
}


def by_hand(layer, x, states, lengths=None, resets=None, fresh=None, inputs=None, R=None):
    """All layers and directions, step by step; x (T, B, I), states (L * D, B, S) each, inputs (T, B, S) each.

    Args:
        R: a product in the place of Plain's own.

    Returns:
        Sequences of all states of the last layer, and the finals.
    """
    D, T, last = 1 + layer.bidirectional, len(x), []
    sequences: tuple[Tensor, ...] = ()
    for k in range(layer.num_layers):
        found = []
        for d in range(D):
            plain, row = Plain(layer, f"_l{k}{'_reverse' * d}", R), k * D + d
            now, steps = [s[row] for s in states], [None] * T
            for t in reversed(range(T)) if d else range(T):
                within = torch.ones(x.shape[1], 1, dtype=torch.bool) if lengths is None else (t < lengths)[:, None]
                if resets is not None:
                    # a border before t, which lies behind t where steps run backwards
                    border = resets[t : t + 1] if not d else resets[t + 1 : t + 2]
                    inside = within if not d or lengths is None else (t + 1 < lengths)[:, None]
                    again = border[0][:, None] & inside if len(border) else torch.zeros_like(within)
                    now = [torch.where(again, f[row], s) for f, s in zip(fresh, now, strict=True)]
                new = plain.step(x[t], now, {name: a[t] for name, a in (inputs or {}).items()})
                now = [torch.where(within, n, s) for n, s in zip(new, now, strict=True)]
                steps[t] = [torch.where(within, s, 0.0) for s in now]
            found.append([torch.stack(column) for column in zip(*steps, strict=True)])
            last.append(now)
        sequences = tuple([torch.cat(column, -1) for column in zip(*found, strict=True)])
        x = sequences[0]
    return sequences, tuple([torch.stack(column) for column in zip(*last, strict=True)])

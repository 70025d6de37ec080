"""Cells drawn at random: what people write into equations, and what they had better not.

A cell is drawn as text, so that a failure shows what to paste. Names from outside are in ``Outside``.
"""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any, NamedTuple

import torch
from torch import nn

from gatefuse import Cell, cell

_GATES = ("a", "b", "q")
_STATES = ("h", "c")

_UNARY = (
    *("tanh({0})", "sigmoid({0})", "relu({0})", "-{0}", "{0}.abs()", "torch.exp(-{0}.abs())", "torch.sin({0})"),
    *("{0}.clamp(-0.5, 0.5)", "{0}.clamp(min=0.1)", "{0}.square().clamp(max=2)", "0.5 * {0}", "{0} * 0.9 + 0.1"),
    *("(1 - {0})", "{0} / 3", "torch.log1p({0}.abs())", "({0} > 0.2).float()", "({0} > 0) * {0}", "{0} ** 2 / 4"),
    *("{0}.type_as({0})", "torch.ones_like({0})", "{0} * torch.tensor(0.7)", "torch.maximum({0}, torch.tensor(0.0))"),
)
_BINARY = (
    *("{0} + {1}", "{0} - {1}", "{0} * {1}", "torch.maximum({0}, {1})", "torch.minimum({0}, {1})"),
    *("torch.where({0} > {1}, {0}, 0.3 * {1})", "{0} / (1 + {1}.abs())", "torch.clamp({0}, min={1})"),
    *("torch.where(({0} > 0) & ({1} < 0.5), {1}, {0})", "{0} * ({1} <= 0.1)"),
)
# Of these a trace must know more than operators, or must not be used.
_DEEP = (
    *("{0}.detach()", "stopped({0})", "{0} * NUMBER", "scaled({0})", "ACTIVATION({0})", "{0} * SETTINGS['rate']"),
    *("{0} * {0}.shape[-1] ** -0.5", "({0} if {0}.shape[-1] > 4 else -{0})", "{0} * 0.1 * {0}.size(0)"),
    *("{0} * (0.5 if {0}.dtype == torch.float32 else 0.25)", "{0} * (1 + 1e5 * torch.finfo({0}.dtype).eps)"),
    *("({0} > 0).to({0}.dtype)", "{0}.float() + 0 * {0}", "{0} * TENSOR", "{0} * LEARNED", "{0} * object_.rate"),
    *("{0} + 0.1 * torch.rand_like({0})", "{0} * count()", "{0}.mul(0.5).tanh_()", "changed({0})", "looked_at({0})"),
    *("{0} * 0.1 * len({0})", "{0}.data * 1", "{0} - {0}.mean(-1, keepdim=True)", "{0}[..., :]", "logged({0})"),
    *("{0} * (0.9 if {0}.requires_grad else 0.9)", "torch.relu_({0} * 1)", "{0} * FRACTIONS[1]", "{0} + MODULE({0})"),
)


class Outside:
    """What drawn equations find outside of themselves; ``begin`` puts it back to where a run begins."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.log: list[float] = []
        self.module = nn.LayerNorm(5, dtype=torch.float64)
        self.learned = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.names: dict[str, Any] = {
            "torch": torch, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu,
            "NUMBER": 0.75, "SETTINGS": {"rate": 0.6}, "FRACTIONS": [0.25, 0.75], "ACTIVATION": nn.Tanh(),
            "TENSOR": torch.tensor(0.4), "LEARNED": self.learned, "MODULE": self.module,
            "object_": _Settings(), "steps": self.steps, "log": self.log,
        }  # fmt: skip
        exec(_HELPERS, self.names)

    def begin(self) -> None:
        """As at the start of every run: the same random numbers, nothing counted."""
        torch.manual_seed(0)
        self.steps.clear()
        self.log.clear()
        for parameter in (self.learned, *self.module.parameters()):
            parameter.grad = None

    def gradients(self) -> list[torch.Tensor | None]:
        """Of what is learned outside of the layer."""
        return [p.grad for p in (self.learned, *self.module.parameters())]

    def change(self) -> None:
        """Give all that can change another value."""
        self.names["NUMBER"] = -0.35
        self.names["SETTINGS"]["rate"] = 0.2
        self.names["FRACTIONS"][1] = 0.5
        self.names["object_"].rate = 0.1
        self.names["ACTIVATION"] = nn.Sigmoid()
        with torch.no_grad():
            self.names["TENSOR"].fill_(-0.2)
            self.learned.fill_(0.3)


class _Settings:
    rate = 0.3


_HELPERS = """
def scaled(v):
    return v * NUMBER * factor()

def factor():
    return 1 - NUMBER / 4

def stopped(v):
    with torch.no_grad():
        return tanh(v)

def looked_at(v):
    with torch.no_grad():
        v.abs()
    return v

def changed(v):
    w = v * 1
    w += 0.1
    w[..., 0] *= 0.5
    return w

def count():
    steps.append(1)
    return 0.1 * len(steps)

def logged(v):
    log.append(float(v.detach().mean()))
    return v
"""


class Drawn(NamedTuple):
    """A cell's text, the cell made of it, and what it finds outside."""

    text: str
    cell: Cell
    outside: Outside

    def __repr__(self) -> str:
        return f"\n{self.text}"


def draw_cell(seed: int) -> Drawn:
    """A cell of one or two states and up to three gates; about half keep to what kernels can be made of."""
    random = Random(seed)
    states = _STATES[: random.randint(1, 2)]
    gates = _GATES[: random.randint(1, 3)]
    parameters = ("p",) if random.random() < 0.4 else ()
    forms = (*_UNARY, *_BINARY, *(_DEEP if random.random() < 0.6 else ()))
    known = [*states, *parameters]
    numbers = count()
    lines: list[str] = []
    declared: list[str] = []

    def assign(text: str) -> None:
        name = f"t{next(numbers)}"
        lines.append(f"{name} = {text}")
        known.append(name)

    def draw() -> None:
        assign(random.choice(forms).format(random.choice(known), random.choice(known)))

    if random.random() < 0.05:  # in place, on what the caller gave
        lines.append(f"{states[-1]} {random.choice(('*= 0.9', '+= 0.1'))}")
    for gate in gates:
        if random.random() < 0.5:
            draw()
        product = f"R.{gate}({random.choice(known)})"
        form = random.choice((*[f"x.{gate} + {product}"] * 3, f"x.{gate} * {product}", f"x.{gate}", product))
        assign(form)
        # half of the cells declare what they don't use
        side = {f"x.{gate}": ":x", product: ":R"}.get(form, "") if seed % 2 else ""
        declared.append(f"{gate}{side}")
    for _ in range(random.randint(1, 4)):
        draw()
    # bounded, so that many steps stay in numbers' range
    new = [f"tanh({random.choice(known[-3:])})"]
    new += [f"0.5 * {s} + 0.5 * tanh({random.choice(known)})" for s in states[1:]]
    keyword = f", *, {', '.join(parameters)}" if parameters else ""
    text = f"def drawn(x, R, {', '.join(states)}{keyword}):\n    " + "\n    ".join(lines)
    text += f"\n    return {', '.join(new)}\n"
    outside = Outside()
    exec(text, outside.names)
    if all(gate.endswith(":R") for gate in declared):
        declared[0] = gates[0]
    return Drawn(text, cell(gates=" ".join(declared))(outside.names["drawn"]), outside)

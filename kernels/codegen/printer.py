"""Expressions as lines of text: the body of a function in Triton or in TorchScript, meant to be read."""

from __future__ import annotations

import keyword
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from gatefuse.kernels.equations.expression import CONSTANT, INPUT, SHARE, Expr, walk
from gatefuse.kernels.equations.operators import COMPARED, PRIMITIVES

_INLINE = 48  # an expression used once is written where it is used, up to this many characters
_RESERVED = {*keyword.kwlist, *PRIMITIVES, "tl", "torch", "triton", "float", "range", "len", "list", "print"}
_RESERVED |= {"slots", "states", "parameters", "d_states", "d_vectors"}
# names of the TorchScript loop
_RESERVED |= {"x", "initial", "gates", "bias", "no_bias", "steps", "step", "k", "at", "restarts", "fresh", "live"}
_RESERVED |= {"reverse", "sequences", "sequence", "zero", "all_states", "weight_ih", "weight_hh", "bias_ih", "bias_hh"}

# Of these torch takes no number for as many arguments.
_TENSORS = {"maximum": 2, "minimum": 2, "clamp_min": 1, "clamp_max": 1}


# Names that generated code makes up: of temporary values, and by a prefix or a number.
_MADE = re.compile(
    rf"(new|old|seq|{'|'.join(PRIMITIVES)})_.*|(in|sum|part|weight|bias|x|v|t)_?\d+|.*_"  # and what this makes of one
)


def safe(name: str) -> str:
    """The name, changed where it would be one that generated code uses."""
    return f"{name}_" if name in _RESERVED or _MADE.fullmatch(name) else name


class Printer:
    """Prints expressions in a dialect, giving names to what is used more than once.

    Args:
        dialect: "triton" or "torch".
        roots: all results that will be asked for; what they share is computed once.
        like: name of a tensor with the shape of a result, for results that are a number alone ("torch").
        units: text of the number of units ("triton").
    """

    def __init__(self, dialect: Literal["triton", "torch"], roots: Sequence[Expr], like: str = "", units: str = "H"):
        self._dialect = dialect
        self._like = like
        self._units = units
        self._uses = Counter(id(a) for e in walk(roots) for a in e.args)
        self._uses.update(id(root) for root in roots)
        self._taken = {safe(str(e.value)) for e in walk(roots) if e.op == INPUT}
        self._texts: dict[int, tuple[str, int]] = {}

    def emit(self, roots: Sequence[Expr]) -> tuple[list[str], list[str]]:
        """Lines that compute the roots, without those emitted before, and the text of each root."""
        lines = []
        results = {id(root) for root in roots}
        for e in walk(roots):
            if e.op in (INPUT, CONSTANT, SHARE) or id(e) in self._texts:
                continue
            text, precedence = self._print(e)
            if self._uses[id(e)] > 1 or (len(text) > _INLINE and id(e) not in results):
                name = self._name(e)
                self._taken.add(name)
                lines.append(f"{name} = {text}")
                text, precedence = name, 9
            self._texts[id(e)] = text, precedence
        return lines, [self._root(root) for root in roots]

    def _root(self, root: Expr) -> str:
        text, _ = self._text(root)
        if root.op == CONSTANT and self._dialect == "torch":
            return f"torch.full_like({self._like}, {text})"
        return text

    def _name(self, e: Expr) -> str:
        parts = [str(a.value) for a in e.args if a.op == INPUT]
        name = f"{e.op}_{parts[0]}" if len(e.args) == 1 and parts else "t0"
        k = 0
        while name in self._taken or name in _RESERVED:
            k += 1
            name = f"t{k}"
        return name

    def _text(self, e: Expr) -> tuple[str, int]:
        if e.op == INPUT:
            return safe(str(e.value)), 9
        if e.op == SHARE:
            return f"1.0 / {self._like}.size(-1)" if self._dialect == "torch" else f"1.0 / {self._units}", 6
        if e.op == CONSTANT:
            value = e.value
            if isinstance(value, float) and not math.isfinite(value):
                return f'float("{value}")', 9
            return repr(value), 9 if isinstance(value, bool) or float(str(value)) >= 0 else 7
        return self._texts[id(e)]

    def _print(self, e: Expr) -> tuple[str, int]:
        primitive = PRIMITIVES[e.op]
        template, precedence = getattr(primitive, self._dialect), primitive.precedence
        args = [self._text(a) for a in e.args]
        if self._dialect == "torch" and e.op in _TENSORS:
            for k in range(_TENSORS[e.op]):
                if e.args[k].op == CONSTANT:
                    args[k] = f"torch.full_like({args[1 - k][0]}, {args[k][0]})", 9
        if self._dialect == "torch" and e.op == "where" and e.args[1].op == e.args[2].op == CONSTANT:
            # of two numbers torch would make a tensor of its default dtype
            args[1] = f"torch.full_like({self._like}, {args[1][0]})", 9
        if template.endswith(")") and "(" in template:
            return template.format(*(text for text, _ in args)), 9
        # The right side of an infix needs parentheses at equal precedence too, but for sums and products of themselves.
        texts = []
        for k, (text, inner) in enumerate(args):
            loose = inner < precedence or (k == 1 and inner == precedence and e.op not in ("add", "mul"))
            loose = loose or (k == 1 and inner == precedence and e.args[1].op != e.op)
            loose = loose or inner == precedence == COMPARED
            texts.append(f"({text})" if loose else text)
        return template.format(*texts), precedence


def definition(
    name: str, arguments: Mapping[str, Sequence[str]], body: Sequence[str], results: Iterable[tuple[str, str]]
) -> list[str]:
    """A function that takes tuples and returns one.

    Args:
        arguments: by argument, the names that its values have in the body, "" for those that it doesn't need.
        results: each one's text, and what it is.
    """
    lines = [
        f"{safe(value)} = {arg}[{k}]" for arg, values in arguments.items() for k, value in enumerate(values) if value
    ]
    lines += [*body, "return (", *(f"    {text},  # {what}" for text, what in results), ")"]
    return [f"def {name}({', '.join(arguments)}):", *(f"    {line}" for line in lines)]

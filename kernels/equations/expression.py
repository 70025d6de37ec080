"""Pointwise expressions: the small language between a traced cell and the text of a kernel.

An expression is an operation on expressions, made through a Graph that gives equal ones the same identity; so common
subexpressions are one, and what no result needs is never printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

Number: TypeAlias = "float | int | bool"

INPUT, CONSTANT = "input", "constant"
# One part of as many as there are units: what a sum is a mean by.
SHARE = "share"


class Expr:
    """One operation: ``op`` is a name from operators.PRIMITIVES, or INPUT with a name, or CONSTANT with a number,
    or SHARE."""

    __slots__ = ("args", "op", "value")

    def __init__(self, op: str, args: tuple[Expr, ...] = (), value: str | Number | None = None):
        self.op = op
        self.args = args
        self.value = value

    @property
    def number(self) -> Number | None:
        """The number of a constant, None for anything else."""
        return self.value if self.op == CONSTANT and not isinstance(self.value, str) else None

    def __repr__(self) -> str:
        return str(self.value) if not self.args else f"{self.op}({', '.join(map(repr, self.args))})"


class Graph:
    """Makes expressions, equal ones once, with the arithmetic of 0, 1 and constants done."""

    def __init__(self) -> None:
        self._known: dict[tuple, Expr] = {}

    def _intern(self, op: str, args: tuple[Expr, ...], value: str | Number | None = None) -> Expr:
        ids = tuple(id(a) for a in args)
        if op in ("add", "mul"):
            ids = tuple(sorted(ids))
        # repr tells 0 from 0.0 and from False, and -0.0 from 0.0
        return self._known.setdefault((op, ids, repr(value)), Expr(op, args, value))

    def input(self, name: str) -> Expr:
        """The input of that name."""
        return self._intern(INPUT, (), name)

    def constant(self, value: Number) -> Expr:
        """That number; a float unless it is a truth value."""
        return self._intern(CONSTANT, (), value if isinstance(value, bool) else float(value))

    def share(self) -> Expr:
        """One part of as many as there are units."""
        return self._intern(SHARE, ())

    def make(self, op: str, *operands: Expr | Number) -> Expr:
        """The expression ``op(*operands)``, simplified."""
        args = tuple(a if isinstance(a, Expr) else self.constant(a) for a in operands)
        simple = self._simplify(op, args)
        return simple if simple is not None else self._intern(op, args)

    def _simplify(self, op: str, args: tuple[Expr, ...]) -> Expr | None:
        numbers = [a.number for a in args]
        if op in _FOLD and None not in numbers:
            return self.constant(_FOLD[op](*numbers))
        match op, numbers:
            case ("add", [0.0, None]) | ("mul", [1.0, None]):
                return args[1]
            case ("add" | "sub", [None, 0.0]) | ("mul" | "div", [None, 1.0]):
                return args[0]
            case ("sub", [0.0, None]):
                return self.make("neg", args[1])
            case ("mul", [-1.0, None]):
                return self.make("neg", args[1])
            case ("mul", [None, -1.0]) | ("div", [None, -1.0]):
                return self.make("neg", args[0])
        if op == "neg" and args[0].op == "neg":
            return args[0].args[0]
        if op == "add" and args[1].op == "neg":
            return self.make("sub", args[0], args[1].args[0])
        if op == "sub" and args[1].op == "neg":
            return self.make("add", args[0], args[1].args[0])
        if op == "where" and args[1] is args[2]:
            return args[1]
        if op in ("where", "and", "or", "not") and args[0].op == CONSTANT:
            return self._decided(op, bool(args[0].number), args)
        if op in ("and", "or") and args[1].op == CONSTANT:
            return self._decided(op, bool(args[1].number), args[::-1])
        if op == "stop" and args[0].op in ("stop", CONSTANT):
            return args[0]
        return None

    def _decided(self, op: str, truth: bool, args: tuple[Expr, ...]) -> Expr:
        """The expression where its first argument is a constant of that truth."""
        if op == "where":
            return args[1] if truth else args[2]
        if op == "not":
            return self.constant(not truth)
        return args[1] if truth is (op == "and") else self.constant(truth)

    def rewrite(self, roots: Iterable[Expr], change: Callable[[Expr], Expr | None]) -> list[Expr]:
        """The roots with every expression for which ``change`` has an answer replaced by it."""
        done: dict[int, Expr] = {}

        def visit(e: Expr) -> Expr:
            if id(e) not in done:
                new = change(e)
                if new is None:
                    new = e if not e.args else self.make(e.op, *map(visit, e.args))
                done[id(e)] = new
            return done[id(e)]

        return [visit(root) for root in roots]


_FOLD: dict[str, Callable[..., Number]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
}


def walk(roots: Iterable[Expr]) -> Iterator[Expr]:
    """Every expression that the roots need, each once, arguments before those who use them."""
    seen: set[int] = set()

    def visit(e: Expr) -> Iterator[Expr]:
        if id(e) in seen:
            return
        seen.add(id(e))
        for a in e.args:
            yield from visit(a)
        yield e

    for root in roots:
        yield from visit(root)


def input_names(roots: Iterable[Expr]) -> set[str]:
    """Names of the inputs that the roots need."""
    return {str(e.value) for e in walk(roots) if e.op == INPUT}

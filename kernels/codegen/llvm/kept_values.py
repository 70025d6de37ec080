"""Values that several of a step's parts compute: the first keeps them, the others read them.

Between means a step has many parts, and each would compute a gate's sigmoid anew. Kept are the largest expressions that
a later part shares, where they take longer to compute than to read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gatefuse.kernels.codegen.llvm.parts import Part, backward_parts, forward_parts, part_of
from gatefuse.kernels.equations.expression import CONSTANT, INPUT, SHARE, Expr, Graph, walk
from gatefuse.kernels.equations.operators import PRIMITIVES, TRUTHS
from gatefuse.kernels.equations.program import Program

# What an operation takes beside a sum, and from where on reading a value is the shorter way.
_LONG, _DIVISION, _WORTH = 10, 4, 6


Parts = tuple[list[Part], list[str]]


def forward_plan(program: Program) -> Parts:
    """A step's parts in the order in which they run, each with what it keeps after its results and what it reads among
    its inputs, and the names of what is kept. Where a program takes no means, nothing is."""
    return _with_kept_values(program, list(forward_parts(program)))


def backward_plan(program: Program) -> Parts:
    """As forward_plan, by phase."""
    return _with_kept_values(program, list(backward_parts(program)))


def kept_values(program: Program, way: str) -> int:
    """How many values a way's parts keep, "forward" or "backward"."""
    return len((forward_plan if way == "forward" else backward_plan)(program)[1])


def _with_kept_values(program: Program, parts: list[Part]) -> Parts:
    if not any(p.reduces for p in program.products):
        return parts, []
    found = _Sharing(program)
    roots = [found.roots(k, part) for k, part in enumerate(parts)]
    made = []
    for k, (part, own) in enumerate(zip(parts, roots, strict=True)):
        kept = found.kept_by(k)
        again = part_of(program, part.name, [*own, *(e for _, e in kept)], part.what, found.names)
        made.append(replace(again, kept=tuple(n for n, _ in kept)))
    return made, found.names


class _Sharing:
    """What parts have in common, as one after the other is looked at."""

    def __init__(self, program: Program):
        cell = program.cell
        self.names: list[str] = []  # of the values that are kept
        self._taken = {*(s.name for s in program.slots), *cell.states, *cell.parameters}
        self._graph = Graph()
        self._first: dict[int, int] = {}  # by expression the part that computes it first
        self._made: list[dict[int, Expr]] = []  # by part the expressions as they are there
        self._numbers: dict[int, int] = {}  # by expression its number among the names
        self._kept: list[tuple[int, int, int]] = []  # part, number, expression
        self._costs: dict[int, int] = {}
        self._alive: list[Sequence[Expr]] = []  # whose identities these are

    def roots(self, k: int, part: Part) -> list[Expr]:
        """A part's results, of what it reads."""
        self._alive.append(part.results)
        done: dict[int, Expr] = {}
        self._made.append(done)

        def visit(e: Expr) -> Expr:
            if id(e) not in done:
                first = self._first.setdefault(id(e), k)
                if first < k and e.op not in TRUTHS and self._cost(e) >= _WORTH:
                    done[id(e)] = self._graph.input(self._name(e, first))
                else:
                    done[id(e)] = self._copied(e, visit)
            return done[id(e)]

        return [visit(root) for root in part.results]

    def _copied(self, e: Expr, visit: Callable[[Expr], Expr]) -> Expr:
        if e.op == INPUT:
            return self._graph.input(str(e.value))
        if e.op == CONSTANT:
            assert e.number is not None
            return self._graph.constant(e.number)
        return self._graph.share() if e.op == SHARE else self._graph.make(e.op, *map(visit, e.args))

    def kept_by(self, k: int) -> list[tuple[int, Expr]]:
        """What a part keeps: numbers among the names, and the expressions as they are there."""
        return [(number, self._made[part][e]) for part, number, e in self._kept if part == k]

    def _name(self, e: Expr, first: int) -> str:
        if id(e) not in self._numbers:
            number = self._numbers[id(e)] = len(self.names)
            name = f"kept{number}"
            while name in self._taken:
                name += "_"
            self._taken.add(name)
            self.names.append(name)
            self._kept.append((first, number, id(e)))
        return self.names[self._numbers[id(e)]]

    def _cost(self, e: Expr) -> int:
        if id(e) not in self._costs:
            self._costs[id(e)] = sum(_cost_of(each) for each in walk([e]))
        return self._costs[id(e)]


def _cost_of(e: Expr) -> int:
    if e.op in (INPUT, CONSTANT, SHARE):
        return 0
    return _LONG if PRIMITIVES[e.op].transcendental else _DIVISION if e.op in ("div", "sqrt") else 1

"""A program's backward in two parts: what needs no gradient, for many steps at once, and what is left for each step.

A step's gradients are linear in those of the states after it: sums of these, each times a factor that follows from what
the forward kept. The factors of many steps can be computed at once before they run, and the gradients of the per-unit
parameters after them, where they follow from those of the slots. In the loop, little is left:

    d_a_i = ((d_c * g) * i) * (1 - i)    becomes    d_a_i = d_c * f1,    f1 = (g * i) * (1 - i) of many steps
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce

from gatefuse.kernels.equations.expression import INPUT, Expr, Graph, input_names, walk
from gatefuse.kernels.equations.program import Program

# A product that overflows would make a gradient of zero not-a-number; what holds none of these is of moderate size.
_LARGE = frozenset(("exp", "expm1", "div", "log"))
_LINEAR = ("add", "sub", "neg", "mul")


@dataclass(frozen=True)
class Hoisted:
    """A backward in two parts.

    Attributes:
        factors: of slots, states and parameters, computed for many steps at once.
        names: of the factors, as the loop's inputs.
        phases: by the program's phases, the gradients of its slots, and of the final one also those of the states and
            of the parameters in ``late``.
        early: indices of the parameters whose gradients need those of the slots alone.
        parameters: their gradients, for many steps at once, of slots, states, parameters, and d_<slot>.
        late: indices of the other parameters.
    """

    factors: tuple[Expr, ...]
    names: tuple[str, ...]
    phases: tuple[tuple[Expr, ...], ...]
    early: tuple[int, ...]
    parameters: tuple[Expr, ...]
    late: tuple[int, ...]


def hoist(program: Program) -> Hoisted:
    """Divide a program's backward."""
    cell = program.cell
    serial = {f"d_{s}" for s in cell.states} | {f"d_v{k}" for k in range(len(program.products))}
    roots = [*program.d_slots, *program.d_states, *program.d_parameters]
    splitter = _Splitter(serial, set(cell.parameters), roots)
    phases = []
    early, late, parameters = [], [], []
    # A slot's gradient may be a state's as it is, which is then no slot's to be told by.
    known = {id(d): f"d_{slot.name}" for slot, d in zip(program.slots, program.d_slots, strict=True) if d.op != INPUT}
    graph = Graph()
    for k, d in enumerate(program.d_parameters):
        (found,) = graph.rewrite([d], lambda e: graph.input(known[id(e)]) if id(e) in known else None)
        if input_names([found]) & serial:
            late.append(k)
        else:
            early.append(k)
            parameters.append(found)
    for phase in program.phases:
        roots = [program.d_slots[i] for i in phase.slots]
        if phase.final:
            roots += [*program.d_states, *[program.d_parameters[k] for k in late]]
        phases.append(tuple(splitter.rest(root) for root in roots))
    names = tuple(splitter.name(k) for k in range(len(splitter.factors)))
    return Hoisted(tuple(splitter.factors), names, tuple(phases), tuple(early), tuple(parameters), tuple(late))


class _Splitter:
    """Takes expressions apart; equal factors are one.

    Args:
        serial: names of the inputs that are known in the loop alone, in which expressions are linear.
        constant: names of the inputs that are the same in all steps.
        roots: all expressions, to see which sums several of them share.
    """

    def __init__(self, serial: set[str], constant: set[str], roots: Sequence[Expr]):
        self.factors: list[Expr] = []
        self._serial, self._constant = serial, constant
        self._uses = Counter(id(a) for e in walk(roots) for a in e.args)
        self._graph = Graph()
        self._places: dict[int, Expr] = {}
        self._done: dict[int, Expr] = {}
        self._inputs: dict[int, set[str]] = {}

    def rest(self, e: Expr) -> Expr:
        """What is left of an expression, of gradients, factors and parameters."""
        if id(e) not in self._done:
            self._done[id(e)] = self._rest(e) if self._of(e) & self._serial else self._factor(e)
        return self._done[id(e)]

    def _rest(self, e: Expr) -> Expr:
        if e.op not in _LINEAR:
            return self._opaque(e)
        make = self._graph.make
        sums: dict[int, tuple[Expr, Expr]] = {}
        for gradient, factor in self._terms(e):
            before = sums.get(id(gradient))
            sums[id(gradient)] = gradient, factor if before is None else make("add", before[1], factor)
        return reduce(partial(make, "add"), [make("mul", g, self._factor(f)) for g, f in sums.values()])

    def _opaque(self, e: Expr) -> Expr:
        if e.op == INPUT:
            return self._graph.input(str(e.value))
        return self._graph.make(e.op, *map(self.rest, e.args))

    def _terms(self, e: Expr, shared: bool = False) -> list[tuple[Expr, Expr]]:
        """A sum as what is left of gradients and their factors; a sum that others share is one of them."""
        make, one = self._graph.make, self._graph.constant(1.0)
        if (
            not self._of(e) & self._serial
            or e.op not in _LINEAR
            or (shared and self._uses[id(e)] > 1 and e.op != "mul")
        ):
            return [(self.rest(e), one)]
        if e.op == "neg":
            return [(g, make("neg", f)) for g, f in self._terms(e.args[0], True)]
        if e.op in ("add", "sub"):
            first, second = (self._terms(a, True) for a in e.args)
            return first + [(g, make("neg", f) if e.op == "sub" else f) for g, f in second]
        gradient, by = e.args if self._of(e.args[0]) & self._serial else e.args[::-1]
        if any(part.op in _LARGE for part in walk([by])):
            return [(make("mul", self.rest(gradient), self._factor(by)), one)]
        return [(g, make("mul", f, by)) for g, f in self._terms(gradient, True)]

    def _factor(self, e: Expr) -> Expr:
        """The loop's input for an expression without gradients; itself, where it is the same in all steps."""
        if not self._of(e) - self._constant:
            return e
        if id(e) not in self._places:
            self._places[id(e)] = self._graph.input(self.name(len(self.factors)))
            self.factors.append(e)
        return self._places[id(e)]

    def name(self, k: int) -> str:
        """Factor k's, which is no parameter's."""
        name = f"f{k}"
        while name in self._constant:
            name += "_"
        return name

    def _of(self, e: Expr) -> set[str]:
        """Names of the inputs of an expression."""
        if id(e) not in self._inputs:
            own = {str(e.value)} if e.op == INPUT else set()
            self._inputs[id(e)] = own.union(*map(self._of, e.args))
        return self._inputs[id(e)]

"""From a cell's equations to its program: traced once, cut at the products, differentiated.

The recurrent products are opaque: R.f(v) hands out an input r_f and notes v, and so is a mean of a row's units. What
is left is pointwise, so one trace holds a whole step, and the order of its products can be read off it. Operators are
recorded below autograd, which adds those of the backward; what the equations ask of tensors beside them is seen by
equations/tracing/questions.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from gatefuse.kernels.equations.expression import Expr, Graph, input_names
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.inputs import GatesAndInputs
from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.equations.products import Product, find_products
from gatefuse.kernels.equations.program import Program, find_phases, find_slots, find_sums
from gatefuse.kernels.equations.recurrence import OfGate, Uncalled, check_gate
from gatefuse.kernels.equations.signature import one_for_each
from gatefuse.kernels.equations.tracing.asks import Asks, check_shape
from gatefuse.kernels.equations.tracing.examples import SHAPE, example, shape_of, shapes
from gatefuse.kernels.equations.tracing.place import beginning, raised, run_equations, running
from gatefuse.kernels.equations.tracing.questions import Watch
from gatefuse.kernels.equations.tracing.record import Record

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # beside float64


def trace(cell: Cell, still: Callable[[], None] = lambda: None) -> Program:
    """The program of a cell.

    Args:
        still: called after each run of the equations; raises where these have changed what they use.

    Raises:
        TranslationError: the equations hold an operator that isn't pointwise or isn't known, depend on what a trace
            can't see, or raise an error.
    """
    program, asked_dtype = _trace(cell, torch.float64, still)
    if asked_dtype:
        text = program.text()
        for dtype in _DTYPES:
            if _trace(cell, dtype, still)[0].text() != text:
                raise TranslationError(
                    f"the equations of {cell.name} must be the same in every dtype. "
                    f"Got others in {dtype} than in float64{beginning(cell.equations)}"
                )
    return program


def _trace(cell: Cell, dtype: torch.dtype, still: Callable[[], None]) -> tuple[Program, bool]:
    """The program, and whether the equations asked for a dtype."""
    graph = Graph()
    run = _Run(cell, graph, dtype)
    with torch.enable_grad():
        found, asked_dtype = run.forward()
        still()
        S = len(cell.states)
        new_states, vectors = found[:S], found[S:]
        _check_steps(cell, new_states, vectors)
        _check_units(cell, new_states, run.asks)
        products, columns = find_products(cell, run.asks.asked, vectors, new_states)
        _check_vectors(cell, products)
        # The backward leaves out vectors that are a state as it is: their gradients are added between the steps. The
        # others count once, whatever is asked for of them.
        places = {k: [id(v) for v in vectors].index(id(p.vector)) for k, p in enumerate(products) if p.computed}
        backward = run.backward(places)
        still()

    sums = find_sums(cell, [*new_states, *(p.vector for p in products)])
    named = {id(graph.make("add", *map(graph.input, pair))): gate for gate, pair in sums.items()}

    def slot_of(e: Expr) -> Expr | None:
        return graph.input(f"a_{named[id(e)]}") if id(e) in named else None

    new_states = graph.rewrite(new_states, slot_of)
    products = [replace(p, vector=graph.rewrite([p.vector], slot_of)[0]) for p in products]
    gradients = dict(zip(backward, graph.rewrite(backward.values(), slot_of), strict=True))
    used = input_names([*new_states, *(p.vector for p in products)])
    slots, d_slots = find_slots(cell, columns, run.others, used, gradients, set(sums))
    program = Program(
        cell=cell,
        slots=slots,
        products=tuple(products),
        new_states=tuple(new_states),
        d_slots=d_slots,
        d_states=tuple([gradients[s] for s in cell.states]),
        d_parameters=tuple([gradients[p] for p in cell.parameters]),
        phases=find_phases(slots, products),
    )
    return program, asked_dtype


def _check_steps(cell: Cell, new_states: Sequence[Expr], vectors: Sequence[Expr]) -> None:
    """Parameters are one for all samples, which the trace doesn't show: it gives them the shape of a state."""
    for e in (*new_states, *vectors):
        names = input_names([e])
        if names and names <= set(cell.parameters):
            raise TranslationError(
                f"new states of {cell.name}, what R multiplies and what is reduced must not come of parameters alone. "
                f"Got one of {', '.join(sorted(names))}{beginning(cell.equations)}"
            )


def _check_units(cell: Cell, new_states: Sequence[Expr], asks: Asks) -> None:
    for state, e in zip(cell.states, new_states, strict=True):
        if asks.same_for_all(e):
            raise TranslationError(
                f"the new state {state} of {cell.name} must have a number for each unit. "
                f"Got one for all units of a sample{beginning(cell.equations)}"
            )


def _check_vectors(cell: Cell, products: Sequence[Product]) -> None:
    """A gate's rows of R have as many columns as what they multiply has units."""
    known: dict[int, str] = {}
    for product in products:
        for gate in () if product.reduces else product.gates:
            if known.setdefault(gate, product.size) != product.size:
                raise TranslationError(
                    f"what R multiplies for a gate of {cell.name} must be of one size; a gate of R's own, p:R, "
                    f"multiplies another. Got {known[gate]} and {product.size} for {cell.recurrent_gates[gate]}"
                    f"{beginning(cell.equations)}"
                )


class _Run:
    """Runs the equations with R's products and means of units replaced by inputs, and notes what they go over."""

    def __init__(self, cell: Cell, graph: Graph, dtype: torch.dtype):
        self.cell, self.graph, self.dtype = cell, graph, dtype
        self.refused: TranslationError | None = None
        of_x, of_R = ({f"{side}_{g}": g for g in gates} for side, gates in _sides(cell))
        self._names = of_x | of_R | {name: name for name in (*cell.states, *cell.parameters)}
        self._first = frozenset(of_R)

    def _example(self, name: str) -> Tensor:
        return example(self.dtype, shape_of(self.cell, name))

    @property
    def others(self) -> list[str]:
        """Names of what was asked for beside each gate's first product."""
        return [ask.name for ask in self.asks.asked if ask.name not in self._first]

    def forward(self) -> tuple[list[Expr], bool]:
        """The new states and the vectors that were asked for, and whether a dtype may make a difference."""
        results, _, record, watch = self._forward()
        return [record.of(result) for result in results], watch.asked_dtype or record.computed_numbers

    def backward(self, places: dict[int, int]) -> dict[str, Expr]:
        """Gradients of all inputs of forward, by name, given those of the new states and of the computed vectors, whose
        places among all vectors are given by their product's number."""
        results, inputs, record, _ = self._forward()
        S = len(self.cell.states)
        outputs, given = [], []
        wanted = [(f"d_{s}", k) for k, s in enumerate(self.cell.states)]
        for name, place in [*wanted, *((f"d_v{k}", S + place) for k, place in places.items())]:
            if results[place].requires_grad:
                outputs.append(results[place])
                given.append(record.input(name, example(self.dtype, tuple(results[place].shape))))
        zero = self.graph.constant(0.0)
        if not outputs:
            return dict.fromkeys(inputs, zero)
        record.in_equations = False
        with record:
            # torch.autograd.grad without its checks, which import a computer algebra system
            found = _engine_run_backward(
                tuple(outputs), tuple(given), False, False, tuple(inputs.values()), allow_unreachable=True,
                accumulate_grad=False,
            )  # fmt: skip
        if record.refused:
            raise record.refused
        return {name: zero if d is None else record.of(d) for name, d in zip(inputs, found, strict=True)}

    def _forward(self) -> tuple[list[Tensor], dict[str, Tensor], Record, Watch]:
        cell = self.cell
        record = Record(cell, self.graph, self.dtype)
        inputs = {name: record.input(name, self._example(own).requires_grad_()) for name, own in self._names.items()}
        self.asks = asks = Asks(cell, record, inputs, self.dtype)
        shares = {shape: record.share(example(self.dtype, shape)) for shape in shapes(cell)}
        watch = Watch(cell.name, record, asks.reduction, shares)
        R = _Recurrence(self, asks)
        beside = {name: inputs[f"x_{name}"] for name in cell.inputs}
        parts = [inputs[f"x_{g}"] for g in cell.input_gates]
        x = GatesAndInputs(beside, cell.input_gates, parts=parts, whole=cell.gates)
        parameters = {p: inputs[p] for p in cell.parameters}
        with record, watch:
            try:
                returned = run_equations(cell, x, R, [inputs[s] for s in cell.states], parameters)
            except TranslationError:
                raise
            except Exception as error:
                raise TranslationError(
                    f"the equations of {cell.name} must run on states of shape {SHAPE} as on any other. "
                    f"Got {type(error).__name__}: {str(error).rstrip('.')}{raised(error)}"
                ) from error
        if refused := record.refused or watch.refused or self.refused:
            raise refused  # also where the equations caught it
        try:
            new = one_for_each(cell, returned)
        except (TypeError, ValueError) as error:
            raise TranslationError(str(error).rstrip(".")) from None
        for state, value in zip(cell.states, new, strict=True):
            fitting = shape_of(cell, state)
            check_shape(cell, f"new state {state}", value, fitting, where=beginning(cell.equations))
        return [*new, *asks.vectors], inputs, record, watch


def _sides(cell: Cell) -> tuple[tuple[str, Sequence[str]], ...]:
    return ("x", cell.x_blocks), ("r", cell.recurrent_gates)


class _Recurrence(Uncalled):
    """Stands for R while tracing."""

    def __init__(self, run: _Run, asks: Asks):
        self._run, self._asks = run, asks

    def __call__(self, vector: Tensor) -> Gates:
        cell = self._run.cell
        gates = cell.recurrent_gates
        return Gates(gates, parts=self._ask(range(len(gates)), vector), whole=cell.gates)

    def __getattr__(self, name: str) -> Callable[[Tensor], Tensor]:
        gates = self._run.cell.recurrent_gates
        check_gate(name, gates, self._run.cell.gates)
        return OfGate(lambda vector: self._ask([gates.index(name)], vector)[0])

    def _ask(self, gates: Iterable[int], vector: Tensor) -> list[Tensor]:
        try:
            return self._asks.products(gates, vector)
        except TranslationError as error:
            located = TranslationError(f"{error}{running()}")
            self._run.refused = self._run.refused or located
            raise located from None

"""From a cell's equations to its program: traced once, cut at the products, differentiated.

The recurrent products are opaque: R.f(v) hands out an input r_f and notes v. What is left is pointwise, so one trace
holds a whole step, and the order of its products can be read off it. Operators are recorded below autograd, which
adds those of the backward; what the equations ask of tensors beside them is seen by equations/tracing/questions.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from gatefuse.kernels.equations.expression import Expr, Graph, input_names
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.inputs import GatesAndInputs
from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.equations.program import Product, Program, find_phases, find_products, find_slots, find_sums
from gatefuse.kernels.equations.recurrence import OfGate, Uncalled, check_gate
from gatefuse.kernels.equations.signature import one_for_each
from gatefuse.kernels.equations.tracing.place import beginning, raised, run_equations, running
from gatefuse.kernels.equations.tracing.questions import Watch
from gatefuse.kernels.equations.tracing.record import SHAPE, Record

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # beside float64


def trace(cell: Cell, still: Callable[[], None] = lambda: None) -> Program:
    """The program of a cell.

    Args:
        still: called after each run of the equations; raises where these have changed what they use.

    Raises:
        TranslationError: the equations hold an operator that isn't pointwise or isn't known, depend on what a trace
            can't see, ask R for a gate twice, or raise an error.
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
        products = find_products(cell, run.asked, vectors, new_states)
        # The backward leaves out vectors that are a state as it is: their gradients are added between the steps. The
        # others count once, however many gates asked for them.
        places = {k: [id(v) for v in vectors].index(id(p.vector)) for k, p in enumerate(products) if p.computed}
        backward = run.backward(places)
        still()

    sums = find_sums(cell, [*new_states, *(p.vector for p in products)])
    named = {id(graph.make("add", *map(graph.input, pair))): gate for gate, pair in sums.items()}

    def replace(e: Expr) -> Expr | None:
        return graph.input(f"a_{named[id(e)]}") if id(e) in named else None

    new_states = graph.rewrite(new_states, replace)
    products = [Product(graph.rewrite([p.vector], replace)[0], p.state, p.gates, p.first, p.stage) for p in products]
    backward = graph.rewrite(backward, replace)
    used = input_names([*new_states, *(p.vector for p in products)])
    slots, d_slots = find_slots(cell, products, used, dict(zip(run.names, backward, strict=True)), set(sums))
    G, P = len(cell.x_blocks) + len(cell.recurrent_gates), len(cell.parameters)
    program = Program(
        cell=cell,
        slots=slots,
        products=tuple(products),
        new_states=tuple(new_states),
        d_slots=d_slots,
        d_states=tuple(backward[G : G + S]),
        d_parameters=tuple(backward[G + S : G + S + P]),
        phases=find_phases(slots, products),
    )
    return program, asked_dtype


def _check_steps(cell: Cell, new_states: Sequence[Expr], vectors: Sequence[Expr]) -> None:
    """Parameters are one for all samples, which the trace doesn't show: it gives them the shape of a state."""
    for e in (*new_states, *vectors):
        names = input_names([e])
        if names and names <= set(cell.parameters):
            raise TranslationError(
                f"new states of {cell.name} and what R multiplies must not come of parameters alone. "
                f"Got one of {', '.join(sorted(names))}{beginning(cell.equations)}"
            )


class _Run:
    """Runs the equations with R's products replaced by inputs, and notes what R was asked to multiply."""

    def __init__(self, cell: Cell, graph: Graph, dtype: torch.dtype):
        self.cell, self.graph, self.dtype = cell, graph, dtype
        self.asked: list[tuple[int, int]] = []  # (gate, index of the vector)
        self.refused: TranslationError | None = None
        of_x, of_R = ([f"{side}_{g}" for g in gates] for side, gates in _sides(cell))
        self.names = [*of_x, *of_R, *cell.states, *cell.parameters]

    def forward(self) -> tuple[list[Expr], bool]:
        """The new states and the vectors that R was asked for, and whether a dtype may make a difference."""
        results, _, record, watch = self._forward()
        return [record.of(result) for result in results], watch.asked_dtype or record.computed_numbers

    def backward(self, places: dict[int, int]) -> list[Expr]:
        """Gradients of all inputs of forward, given those of the new states and of the computed vectors, whose places
        among all vectors are given by their product's number."""
        results, inputs, record, _ = self._forward()
        S = len(self.cell.states)
        outputs, given = [], []
        wanted = [(f"d_{s}", k) for k, s in enumerate(self.cell.states)]
        for name, place in [*wanted, *((f"d_v{k}", S + place) for k, place in places.items())]:
            if results[place].requires_grad:
                outputs.append(results[place])
                given.append(record.input(name, _example(self.dtype)))
        zero = self.graph.constant(0.0)
        if not outputs:
            return [zero] * len(inputs)
        record.in_equations = False
        with record:
            # torch.autograd.grad without its checks, which import a computer algebra system
            found = _engine_run_backward(
                tuple(outputs), tuple(given), False, False, tuple(inputs), allow_unreachable=True, accumulate_grad=False
            )
        if record.refused:
            raise record.refused
        return [zero if d is None else record.of(d) for d in found]

    def _forward(self) -> tuple[list[Tensor], list[Tensor], Record, Watch]:
        cell = self.cell
        record = Record(cell, self.graph, self.dtype)
        watch = Watch(cell.name, record)
        inputs = [record.input(name, _example(self.dtype).requires_grad_()) for name in self.names]
        by_name = dict(zip(self.names, inputs, strict=True))
        self.asked = []
        vectors: list[Tensor] = []
        R = _Recurrence(self, vectors, [by_name[f"r_{g}"] for g in cell.recurrent_gates])
        parts = [by_name[f"x_{g}"] for g in cell.input_gates]
        beside = {name: by_name[f"x_{name}"] for name in cell.inputs}
        x = GatesAndInputs(beside, cell.input_gates, parts=parts, whole=cell.gates)
        parameters = {p: by_name[p] for p in cell.parameters}
        with record, watch:
            try:
                returned = run_equations(cell, x, R, [by_name[s] for s in cell.states], parameters)
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
            _check_shape(cell, f"new state {state}", value, beginning(cell.equations))
        return [*new, *vectors], inputs, record, watch


def _sides(cell: Cell) -> tuple[tuple[str, Sequence[str]], ...]:
    return ("x", cell.x_blocks), ("r", cell.recurrent_gates)


def _example(dtype: torch.dtype) -> Tensor:
    """Values for a trace, which come from no generator of random numbers."""
    return torch.linspace(0.1, 0.9, SHAPE[0] * SHAPE[1], dtype=dtype, device="cpu").view(SHAPE)


class _Recurrence(Uncalled):
    """Stands for R while tracing."""

    def __init__(self, run: _Run, vectors: list[Tensor], r: Sequence[Tensor]):
        self._run, self._vectors, self._r = run, vectors, r

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
            return self._given(gates, vector)
        except TranslationError as error:
            located = TranslationError(f"{error}{running()}")
            self._run.refused = self._run.refused or located
            raise located from None

    def _given(self, gates: Iterable[int], vector: Tensor) -> list[Tensor]:
        cell, found = self._run.cell, []
        _check_shape(cell, "what R multiplies", vector)
        for gate in gates:
            if any(gate == g for g, _ in self._run.asked):
                raise TranslationError(
                    f"{cell.name} must ask R for each gate once a step. Got gate {cell.recurrent_gates[gate]} twice"
                )
            self._run.asked.append((gate, len(self._vectors)))
            found.append(self._r[gate] if torch.is_grad_enabled() else self._r[gate].detach())
        self._vectors.append(vector)
        return found


def _check_shape(cell: Cell, what: str, value: Any, where: str = "") -> None:
    if not isinstance(value, Tensor):
        raise TranslationError(f"{what} of {cell.name} must be a tensor. Got {type(value).__name__}{where}")
    with torch._C.DisableTorchFunction():
        shape = tuple(value.shape)
    if shape != SHAPE:
        raise TranslationError(
            f"{what} of {cell.name} must have a state's shape, since equations are pointwise. "
            f"Got {shape} for states of {SHAPE}{where}"
        )

"""From a cell's equations to its program: traced once, cut at the products, differentiated.

The recurrent products are opaque: R.f(v) hands out an input r_f and notes v. What is left is pointwise, so one trace
holds a whole step, and the order of its products can be read off it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import _disable_current_modes

from gatefuse.kernels.cell import Gates
from gatefuse.kernels.expression import Expr, Graph, input_names
from gatefuse.kernels.operators import TranslationError, translate
from gatefuse.kernels.program import Product, Program, find_phases, find_products, find_slots, find_sums

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell

_SHAPE = (2, 3)  # of the values the trace runs on


def trace(cell: Cell) -> Program:
    """The program of a cell.

    Raises:
        TranslationError: the equations hold an operator that isn't pointwise or isn't known, control flow that depends
            on values, or ask R for a gate twice.
    """
    # A cell may first be asked for while torch traces a model: nothing of this trace belongs into that one.
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        return _trace(cell)


def _trace(cell: Cell) -> Program:
    graph = Graph()
    recorder = _Recorder(cell)
    forward = _expressions(graph, cell, recorder.forward, recorder.inputs())
    S = len(cell.states)
    new_states, vectors = forward[:S], forward[S:]

    products = find_products(cell, recorder.asked, vectors, new_states)
    # The backward leaves out vectors that are a state as it is: their gradients are added between the steps. The others
    # count once, however many gates asked for them.
    inputs = recorder.inputs() | {f"d_{state}": recorder.example() for state in cell.states}
    for k, product in enumerate(products):
        if product.state < 0:
            recorder.computed[f"d_v{k}"] = [id(v) for v in vectors].index(id(product.vector))
            inputs[f"d_v{k}"] = recorder.example()
    backward = _expressions(graph, cell, recorder.backward, inputs)

    sums = find_sums(cell, [*new_states, *(p.vector for p in products)])
    named = {id(graph.make("add", *map(graph.input, pair))): gate for gate, pair in sums.items()}

    def replace(e: Expr) -> Expr | None:
        return graph.input(f"a_{named[id(e)]}") if id(e) in named else None

    new_states = graph.rewrite(new_states, replace)
    products = [Product(graph.rewrite([p.vector], replace)[0], p.state, p.gates, p.first, p.stage) for p in products]
    backward = graph.rewrite(backward, replace)
    used = input_names([*new_states, *(p.vector for p in products)])
    slots, d_slots = find_slots(cell, products, used, dict(zip(recorder.names, backward, strict=True)), set(sums))
    G, P = len(cell.gates), len(cell.parameters)
    return Program(
        cell=cell,
        slots=slots,
        products=tuple(products),
        new_states=tuple(new_states),
        d_slots=d_slots,
        d_states=tuple(backward[2 * G : 2 * G + S]),
        d_parameters=tuple(backward[2 * G + S : 2 * G + S + P]),
        phases=find_phases(slots, products),
    )


class _Recorder:
    """Runs the equations with R's products replaced by inputs, and notes what R was asked to multiply."""

    def __init__(self, cell: Cell):
        self.cell = cell
        self.asked: list[tuple[int, int]] = []  # (gate, index of the vector)
        self.computed: dict[str, int] = {}  # name of a vector's gradient -> index of the vector
        gates = cell.gates
        self.names = [f"x_{g}" for g in gates] + [f"r_{g}" for g in gates] + [*cell.states, *cell.parameters]

    @staticmethod
    def example() -> Tensor:
        return torch.rand(_SHAPE, device="cpu")

    def inputs(self) -> dict[str, Tensor]:
        return {name: self.example() for name in self.names}

    def forward(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """The new states and the vectors that R was asked for."""
        cell = self.cell
        vectors: list[Tensor] = []
        self.asked = []
        R = _Asked(self, vectors, [inputs[f"r_{g}"] for g in cell.gates])
        x = Gates(cell.gates, parts=[inputs[f"x_{g}"] for g in cell.gates])
        states = [inputs[s] for s in cell.states]
        new = cell.step(x, R, states, {p: inputs[p] for p in cell.parameters})  # type: ignore[arg-type]
        for state, value in zip(cell.states, new, strict=True):
            _check_shape(cell, f"new state {state}", value)
        return [*new, *vectors]

    def backward(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Gradients of all inputs of forward, given those of the new states and of the computed vectors."""

        def run(*values: Tensor) -> list[Tensor]:
            out = self.forward(dict(zip(self.names, values, strict=True)))
            S = len(self.cell.states)
            return out[:S] + [out[S + k] for k in self.computed.values()]

        pullback = torch.func.vjp(run, *(inputs[name] for name in self.names))[1]
        given = [f"d_{s}" for s in self.cell.states] + list(self.computed)
        return list(pullback([inputs[name] for name in given]))


class _Asked:
    """Stands for R while tracing."""

    def __init__(self, recorder: _Recorder, vectors: list[Tensor], r: Sequence[Tensor]):
        self._recorder, self._vectors, self._r = recorder, vectors, r

    def __call__(self, vector: Tensor) -> Gates:
        gates = self._recorder.cell.gates
        return Gates(gates, parts=self._ask(range(len(gates)), vector))

    def __getattr__(self, name: str) -> Callable[[Tensor], Tensor]:
        gates = self._recorder.cell.gates
        if name not in gates:
            raise AttributeError(f"a gate of R must be one of {', '.join(gates)}. Got {name}.")
        return lambda vector: self._ask([gates.index(name)], vector)[0]

    def _ask(self, gates: Sequence[int], vector: Tensor) -> list[Tensor]:
        cell = self._recorder.cell
        _check_shape(cell, "what R multiplies", vector)
        for gate in gates:
            if any(gate == g for g, _ in self._recorder.asked):
                raise TranslationError(
                    f"{cell.name} must ask R for each gate once a step. Got gate {cell.gates[gate]} twice"
                )
            self._recorder.asked.append((gate, len(self._vectors)))
        self._vectors.append(vector)
        return [self._r[gate] for gate in gates]


def _check_shape(cell: Cell, what: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TranslationError(f"{what} of {cell.name} must be a tensor. Got {type(value).__name__}")
    if tuple(value.shape) != _SHAPE:
        raise TranslationError(
            f"{what} of {cell.name} must have a state's shape, since equations are pointwise. "
            f"Got {tuple(value.shape)} for states of {_SHAPE}"
        )


def _expressions(
    graph: Graph, cell: Cell, function: Callable[[dict[str, Tensor]], list[Tensor]], inputs: dict[str, Tensor]
) -> list[Expr]:
    """Trace a function of named tensors, and its results as expressions."""
    names = list(inputs)
    flow = "data-dependent control flow"
    try:
        with torch.enable_grad():
            module = make_fx(lambda *values: function(dict(zip(names, values, strict=True))))(*inputs.values())
    except TranslationError:
        raise
    except RuntimeError as error:
        if "data-dependent" not in str(error) and "vmap" not in str(error) and ".item()" not in str(error):
            raise
        raise TranslationError(
            f"the equations of {cell.name} must run the same operators whatever the values are: no if, while or "
            f".item() on a tensor; use torch.where. Got {flow}"
        ) from error

    values: dict[Node, Any] = {}
    fresh = iter(names)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = graph.input(next(fresh))
        elif node.op == "get_attr":
            values[node] = _constant(graph, cell, getattr(module, str(node.target)))
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            values[node] = translate(graph, _aten_name(node.target), *_arguments(node, values))
        elif node.op == "call_function":  # operator.getitem, on the results of an operator with several
            source, index = node.args
            values[node] = values[source][index]
        elif node.op == "output":
            return [values[n] for n in node.args[0]]
    raise AssertionError("a traced graph ends in its output")


def _aten_name(op: torch._ops.OpOverload) -> str:
    return op._schema.name.removeprefix("aten::")


def _arguments(node: Node, values: dict[Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    get = lambda a: values[a] if isinstance(a, Node) else a  # noqa: E731
    plumbing = ("pin_memory", "layout", "device", "memory_format", "non_blocking")
    return tuple(map(get, node.args)), {k: get(v) for k, v in node.kwargs.items() if k not in plumbing}


def _constant(graph: Graph, cell: Cell, value: Tensor) -> Expr:
    if value.numel() != 1:
        raise TranslationError(
            f"a tensor that the equations of {cell.name} bring along must be a single number; "
            f"weights belong into keyword-only parameters. Got shape {tuple(value.shape)}"
        )
    return graph.constant(value.item())

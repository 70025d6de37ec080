"""A program as Python functions of torch operators: a step's pointwise parts, and the backward divided by hoist.py.

update(slots, states, parameters) -> new states
vectors_<stage>(slots, states, parameters) -> computed vectors of that stage's products
factors(slots, states, parameters) -> what the backward's steps multiply with, for many steps at once
backward_<k>(factors, parameters, d_states, d_vectors) -> what phase k of a step yields, None for zero
d_parameters(slots, states, parameters, d_slots) -> gradients of the parameters, for many steps at once, not summed

Tensors are (B, H) in a step and (steps, B, H) for many; parameters are (H,).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.definitions import defined
from gatefuse.kernels.codegen.hoist import Hoisted, hoist
from gatefuse.kernels.codegen.per_cell import per_cell
from gatefuse.kernels.codegen.printer import Printer, definition
from gatefuse.kernels.equations.expression import Expr, input_names
from gatefuse.kernels.equations.program import Program, computed

Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class TorchFunctions:
    """The functions of a cell; vectors[k] is stage k + 1's, None where it computes none."""

    hoisted: Hoisted
    update: Function
    vectors: tuple[Function | None, ...]
    factors: Function
    backward: tuple[Function, ...]
    d_parameters: Function


@per_cell
def torch_functions(cell: Cell) -> TorchFunctions:
    """The functions of a cell's program.

    Raises:
        TranslationError: as gatefuse.source.
    """
    program, hoisted = cell.program, hoist(cell.program)
    text = _source(program, hoisted)
    namespace = defined(text, f"<gatefuse {cell.key}, torch>", {"torch": torch}, cell)
    return TorchFunctions(
        hoisted,
        namespace["update"],
        tuple(namespace.get(f"vectors_{stage}") for stage in range(1, program.stages + 1)),
        namespace["factors"],
        tuple(namespace[f"backward_{k}"] for k in range(len(program.phases))),
        namespace["d_parameters"],
    )


def torch_source(program: Program) -> str:
    """The module of the functions."""
    return _source(program, hoist(program))


def _source(program: Program, hoisted: Hoisted) -> str:
    functions = ["\n".join(_printed(program, hoisted, each)) for each in _functions(program, hoisted)]
    return f"# Generated from the equations of {program.cell.name}.\n\n\n" + "\n\n\n".join(functions) + "\n"


class _Function(NamedTuple):
    name: str
    arguments: tuple[str, ...]
    results: Sequence[Expr]
    what: Sequence[str]
    like: str
    absent: range = range(0)  # results that are None where they are zero


_FORWARD = ("slots", "states", "parameters")


def _functions(program: Program, hoisted: Hoisted) -> Iterator[_Function]:
    cell = program.cell
    for stage in range(1, program.stages + 1):
        if found := computed(program, stage):
            vectors = [program.products[k].vector for k in found]
            yield _Function(f"vectors_{stage}", _FORWARD, vectors, [f"v{k}" for k in found], "states[0]")
    yield _Function("update", _FORWARD, program.new_states, [f"new {s}" for s in cell.states], "states[0]")
    yield _Function("factors", _FORWARD, hoisted.factors, hoisted.names, "states[0]")
    for k, (phase, roots) in enumerate(zip(program.phases, hoisted.phases, strict=True)):
        names = [program.slots[i].name for i in phase.slots]
        absent = range(len(names), len(names) + len(cell.states))
        if phase.final:
            names += [*cell.states, *[cell.parameters[i] for i in hoisted.late]]
        arguments = "factors", "parameters", "d_states", "d_vectors"
        yield _Function(f"backward_{k}", arguments, roots, [f"d_{name}" for name in names], "d_states[0]", absent)
    names = [f"d_{cell.parameters[i]}" for i in hoisted.early]
    yield _Function("d_parameters", (*_FORWARD, "d_slots"), hoisted.parameters, names, "states[0]")


def _printed(program: Program, hoisted: Hoisted, function: _Function) -> list[str]:
    cell = program.cell
    places = {
        "slots": [slot.name for slot in program.slots],
        "states": list(cell.states),
        "parameters": list(cell.parameters),
        "factors": hoisted.names,
        "d_states": [f"d_{s}" for s in cell.states],
        "d_vectors": [f"d_v{k}" for k in range(len(program.products))],
        "d_slots": [f"d_{slot.name}" for slot in program.slots],
    }
    used = input_names(function.results)
    read = {arg: [value if value in used else "" for value in places[arg]] for arg in function.arguments}
    body, results = Printer("torch", function.results, like=function.like).emit(function.results)
    zeros = [k for k in function.absent if k < len(results) and function.results[k].number == 0]
    results = ["None" if k in zeros else text for k, text in enumerate(results)]
    return definition(function.name, read, body, zip(results, function.what, strict=True))

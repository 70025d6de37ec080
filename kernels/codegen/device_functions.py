"""A program as Triton device functions, forward and backward; meant to be read, and made once for a cell.

update(slots, states, parameters) -> new states
vectors_<stage>(slots, states, parameters) -> computed vectors of that stage's products
backward_<stage>(slots, states, parameters, d_states, d_vectors) -> gradients, in the phase's order
vectors(K, ...), backward(K, ...) -> those of stage K, of phase K, for kernels that run all of a step

Kernels take these functions one to a constexpr argument. A tuple of them would read well, but Triton's cache on disk
knows a tuple by its text, in which two cells' functions are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.definitions import defined
from gatefuse.kernels.codegen.per_cell import per_cell
from gatefuse.kernels.codegen.printer import Printer, definition
from gatefuse.kernels.equations.expression import SHARE, Expr, input_names, walk
from gatefuse.kernels.equations.program import Program, computed
from gatefuse.kernels.runtime.requirement import require_triton

if TYPE_CHECKING:
    from triton.runtime.jit import JITFunction


def triton_source(program: Program, units: str = "H") -> str:
    """The module of Triton device functions; ``units`` is the text of how many there are, where a function asks."""
    cell = program.cell
    parts = [f"# Generated from the equations of {cell.name}.", f"# {cell.__doc__}" if cell.__doc__ else ""]
    for name, args, roots, what in _functions(program):
        parts += ["", *_function(program, name, args, roots, what, units)]
    stages = [stage for stage in range(1, program.stages + 1) if computed(program, stage)]
    parts += ["", *_by_number("vectors", _FORWARD, {stage: stage for stage in stages})]
    phases = {k: phase.stage for k, phase in enumerate(program.phases)}
    parts += ["", *_by_number("backward", _BACKWARD, phases)]
    return "\n".join(line for k, line in enumerate(parts) if line or k > 1) + "\n"


_FORWARD = ("slots", "states", "parameters")
_BACKWARD = (*_FORWARD, "d_states", "d_vectors")


def _functions(program: Program) -> list[tuple[str, tuple[str, ...], list[Expr], list[str]]]:
    """Name, arguments, results and the results' names of each device function."""
    cell = program.cell
    found: list[tuple[str, tuple[str, ...], list[Expr], list[str]]] = []
    for stage in range(1, program.stages + 1):
        vectors = [program.products[k].vector for k in computed(program, stage)]
        if vectors:
            names = [f"v{k}" for k in computed(program, stage)]
            found.append((f"vectors_{stage}", _FORWARD, vectors, names))
    found.append(("update", _FORWARD, list(program.new_states), [f"new {s}" for s in cell.states]))
    for phase in program.phases:
        roots = [program.d_slots[i] for i in phase.slots]
        names = [f"d_{program.slots[i].name}" for i in phase.slots]
        if phase.final:
            roots += [*program.d_states, *program.d_parameters]
            names += [f"d_{n}" for n in (*cell.states, *cell.parameters)]
        found.append((f"backward_{phase.stage}", _BACKWARD, roots, names))
    return found


def _function(
    program: Program, name: str, args: Sequence[str], roots: list[Expr], what: list[str], units: str
) -> list[str]:
    cell = program.cell
    places = {
        "slots": [slot.name for slot in program.slots],
        "states": list(cell.states),
        "parameters": list(cell.parameters),
        "d_states": [f"d_{s}" for s in cell.states],
        "d_vectors": [f"d_v{k}" for k in range(len(program.products))],
    }
    body, results = Printer("triton", roots, units=units).emit(roots)
    used = input_names(roots)
    read = {arg: [value if value in used else "" for value in places[arg]] for arg in args}
    return ["@triton.jit", *definition(name, read, body, zip(results, what, strict=True)), ""]


def _by_number(name: str, args: Sequence[str], stages: dict[int, int]) -> list[str]:
    """A function that calls the stage's of a number, which is known when a kernel is compiled."""
    lines = ["@triton.jit", f"def {name}(K: tl.constexpr, {', '.join(args)}):"]
    for number, stage in stages.items():
        lines += [f"    if K == {number}:", f"        return {name}_{stage}({', '.join(args)})"]
    return [*lines, ""] if stages else []


@dataclass(frozen=True)
class DeviceFunctions:
    """The compiled-on-demand device functions of a cell; vectors[k] is stage k + 1's, None where it computes none.

    any_vectors takes the stage as its first argument, any_backward the number of the phase.
    """

    update: JITFunction[Any]
    vectors: tuple[JITFunction[Any] | None, ...]
    backward: tuple[JITFunction[Any], ...]
    any_vectors: JITFunction[Any] | None
    any_backward: JITFunction[Any]


def device_functions(cell: Cell, H: int) -> DeviceFunctions:
    """The Triton functions of a cell of H units; brings Triton when first called.

    Raises:
        ModuleNotFoundError: Triton is not installed.
        TranslationError: as source().
    """
    require_triton("device functions")
    return _made(cell, H if _asks_units(cell) else 0)


@per_cell
def _asks_units(cell: Cell) -> bool:
    """Whether the functions are others where there are more units."""
    return any(e.op == SHARE for _, _, roots, _ in _functions(cell.program) for e in walk(roots))


@per_cell
def _made(cell: Cell, units: int) -> DeviceFunctions:
    """Of so many units, 0 where it is the same for all."""
    import triton
    import triton.language as tl

    from gatefuse.kernels.triton import mathlib

    program = cell.program
    helpers = ("sigmoid", "tanh", "log1p", "expm1", "log_sigmoid", "relu", "maximum", "minimum", "remainder")
    namespace: dict[str, Any] = {"__name__": __name__, "triton": triton, "tl": tl}
    namespace |= {helper: getattr(mathlib, helper) for helper in helpers}
    file = f"<gatefuse {cell.key}, H {units}>" if units else f"<gatefuse {cell.key}>"
    defined(triton_source(program, str(units)), file, namespace, cell)
    return DeviceFunctions(
        update=namespace["update"],
        vectors=tuple(namespace.get(f"vectors_{stage}") for stage in range(1, program.stages + 1)),
        backward=tuple(namespace[f"backward_{phase.stage}"] for phase in program.phases),
        any_vectors=namespace.get("vectors"),
        any_backward=namespace["backward"],
    )

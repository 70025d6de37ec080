"""A program's pointwise parts as functions of vectors, which the loops call and LLVM puts in their places.

update(slots, states, parameters) -> new states
vectors_<stage>(slots, states, parameters) -> computed vectors of that stage's products
backward_<k>(slots, states, parameters, d_states, d_vectors) -> gradients, in the order of phase k

A function takes the values that its part uses, by the program's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import Code
from gatefuse.kernels.codegen.llvm.mathematics import Mathematics
from gatefuse.kernels.codegen.llvm.processor import this_processor
from gatefuse.kernels.codegen.llvm.vectors import Float
from gatefuse.kernels.equations.expression import CONSTANT, INPUT, SHARE, Expr, input_names, walk
from gatefuse.kernels.equations.operators import TRUTHS
from gatefuse.kernels.equations.program import Program, computed

# Operations that Mathematics has under another name.
_NAMES = {
    "and": "both",
    "or": "any",
    "not": "no",
    "where": "select",
    "maximum": "larger",
    "minimum": "smaller",
    "clamp_min": "larger",
    "clamp_max": "smaller",
}
_SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_INTRINSICS = {"abs": "fabs", "sqrt": "sqrt", "floor": "floor"}
_LIBRARY = ("erf", "sin", "cos")
# What a part calls one part of as many as there are units, which is no name of a cell's.
OF_UNITS = "1/H"


@dataclass(frozen=True)
class Part:
    """A pointwise function: its name, names of the values that it takes, what it returns, and what these are.

    kept: numbers of the values that it returns after these, for later parts (kept_values.py).
    """

    name: str
    inputs: tuple[str, ...]
    results: tuple[Expr, ...]
    what: tuple[str, ...]
    kept: tuple[int, ...] = ()

    def define(self, module: ir.Module, kind: Float) -> None:
        """Add the function to a module."""
        result = ir.LiteralStructType([kind.vector] * len(self.results))
        code = Code(module, self.name, [(name, kind.vector) for name in self.inputs], result, "alwaysinline")
        values = _values(code, kind, dict(zip(self.inputs, code.function.args, strict=True)), self.results)
        found = ir.Constant(result, ir.Undefined)
        for k, value in enumerate(values):
            found = code.builder.insert_value(found, value, k)
        code.finish(found)

    def call(self, code: Code, values: Sequence[Any]) -> list[Any]:
        """Its results for these inputs."""
        found = code.builder.call(code.module.globals[self.name], values)
        return [code.builder.extract_value(found, k) for k in range(len(self.results))]


def llvm_source(program: Program) -> str:
    """The module of the parts, in float32, for the processor at hand, as it is given to LLVM."""
    module = ir.Module(program.cell.name)
    processor = this_processor()
    module.triple = processor.triple
    for part in (*forward_parts(program), *backward_parts(program)):
        part.define(module, Float.of(4, processor))
    # a constant of which all lanes are the same, as LLVM itself writes it
    text = re.sub(r"<((?:float|i32) [^,>]+)(?:, \1)+>", r"splat (\1)", str(module))
    return f"; Generated from the equations of {program.cell.name}.\n{text}"


def update(program: Program) -> Part:
    names = [f"new {s}" for s in program.cell.states]
    return part_of(program, "update", program.new_states, names)


def vectors(program: Program, stage: int) -> Part | None:
    """Of a stage's products that multiply no state as it is; None where there are none."""
    found = computed(program, stage)
    roots = [program.products[k].vector for k in found]
    return part_of(program, f"vectors_{stage}", roots, [f"v{k}" for k in found]) if found else None


def backward(program: Program, k: int) -> Part:
    """Of phase k: gradients of its slots and, of the final one, of the states and of the parameters."""
    phase = program.phases[k]
    roots = [program.d_slots[i] for i in phase.slots]
    names = [program.slots[i].name for i in phase.slots]
    if phase.final:
        roots += [*program.d_states, *program.d_parameters]
        names += [*program.cell.states, *program.cell.parameters]
    return part_of(program, f"backward_{k}", roots, [f"d_{name}" for name in names])


def forward_parts(program: Program) -> Iterator[Part]:
    for stage in range(1, program.stages + 1):
        if (part := vectors(program, stage)) is not None:
            yield part
    yield update(program)


def backward_parts(program: Program) -> Iterator[Part]:
    for k in range(len(program.phases)):
        yield backward(program, k)


def part_of(
    program: Program, name: str, roots: Sequence[Expr], what: Sequence[str], others: Sequence[str] = ()
) -> Part:
    """A part of these results; ``others`` are names of values that it may take beside the program's."""
    cell, used = program.cell, input_names(roots)
    names = [slot.name for slot in program.slots] + [*cell.states, *cell.parameters]
    names += [f"d_{s}" for s in cell.states] + [f"d_v{k}" for k in range(len(program.products))]
    names += others
    if any(e.op == SHARE for e in walk(roots)):
        names, used = [*names, OF_UNITS], used | {OF_UNITS}
    return Part(name, tuple(n for n in names if n in used), tuple(roots), tuple(what))


def _values(code: Code, kind: Float, inputs: dict[str, Any], roots: Sequence[Expr]) -> list[Any]:
    """Vectors of the roots' values."""
    v = Mathematics(code, kind)
    done: dict[int, Any] = {}
    for e in walk(roots):
        if e.op == INPUT:
            done[id(e)] = inputs[str(e.value)]
        elif e.op == SHARE:
            done[id(e)] = inputs[OF_UNITS]
        elif e.op == CONSTANT:
            number = e.number
            assert number is not None
            done[id(e)] = v.truth(number) if isinstance(number, bool) else v.number(number)
        else:
            done[id(e)] = _value(v, e.op, [done[id(a)] for a in e.args])
    return [_as_number(v, done[id(root)]) for root in roots]


def _value(v: Mathematics, op: str, args: list[Any]) -> Any:
    if op in TRUTHS and op in _SIGNS:
        return v.compare(_SIGNS[op], *[_as_number(v, a) for a in args])
    if op in _INTRINSICS:
        return v.intrinsic(_INTRINSICS[op], *args)
    if op in _LIBRARY:
        return v.lanewise(op, *args)
    if op == "stop":
        return args[0]
    if op == "relu":  # not-a-number stays
        return v.select(v.compare("<=", args[0], v.number(0.0)), v.number(0.0), args[0])
    if op == "where":
        args = [args[0], *[_as_number(v, a) for a in args[1:]]]
    return getattr(v, _NAMES.get(op, op))(*args)


def _as_number(v: Mathematics, value: Any) -> Any:
    return value if value.type == v.kind.vector else v.select(value, v.number(1.0), v.number(0.0))

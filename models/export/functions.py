"""The functions that a program in C calls, as LLVM: reset, step and run of a whole model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm import parts
from gatefuse.kernels.codegen.llvm.code import I32, POINTER, Code, Number
from gatefuse.kernels.codegen.llvm.objects.object_code import FREESTANDING
from gatefuse.kernels.codegen.llvm.objects.stored import Stored, constant
from gatefuse.kernels.codegen.llvm.objects.stream import define_layer
from gatefuse.kernels.codegen.llvm.objects.targets import Target
from gatefuse.kernels.codegen.llvm.routines import Module
from gatefuse.kernels.codegen.llvm.vectors import Float, Vectors
from gatefuse.models.export.chain import Layer, Lookup, Operation, Pointwise
from gatefuse.models.export.layout import Layout, Place


def model_module(name: str, operations: list[Operation], layout: Layout, stored: Stored, target: Target) -> Module:
    """A module with <name>_reset(state), <name>_step(state, x, y) and <name>_run(state, steps, x, y).

    Where the first operation is a Lookup, x holds 32-bit integers, and the last two return 1, and do nothing, where
    one of these is no number of a row; else they return nothing.
    """
    module = Module(name, target.processor, whole=True, attributes=FREESTANDING)
    _Functions(module, name, operations, layout, stored).define()
    return module


class _Functions:
    def __init__(self, module: Module, name: str, operations: list[Operation], layout: Layout, stored: Stored):
        self.module, self.name, self.operations, self.layout, self.stored = module, name, operations, layout, stored
        self.kind = Float.of(4, module.processor)
        self.vector = self.kind.lanes * 4
        self.entries = len(operations[0].table) if isinstance(operations[0], Lookup) else 0
        align = max(4, self.vector)
        self.floats = constant(module, f"{name}_floats", layout.floats, align)
        self.weights = constant(module, f"{name}_weights", layout.weights, align)
        self._known: dict[Any, ir.Function] = {}

    def define(self) -> None:
        self._reset()
        self._run(self._step())

    def _function(self, name: str, arguments: dict[str, ir.Type], returns: bool = False) -> Code:
        kinds = list(arguments.items())
        return Code(self.module, f"{self.name}_{name}", kinds, I32 if returns else None, public=True)

    def _address(self, code: Code, value: Any) -> Number:
        return Number(code, code.builder.ptrtoint(value, code.word))

    def _reset(self) -> None:
        code = self._function("reset", {"state": POINTER})
        vectors, state = Vectors(code, self.kind), self._address(code, code.function.args[0])
        for op, place in self._layers():
            for s, first in enumerate(op.cell.init if op.recurrent else ()):
                row = place.blocks.row * 4
                with code.loop("unit", place.states * 4 + row * s, place.states * 4 + row * (s + 1), self.vector) as at:
                    vectors.store(vectors.number(first), state + at)
        code.finish()

    def _layers(self) -> list[tuple[Layer, Any]]:
        return [(op, p) for op, p in zip(self.operations, self.layout.places, strict=True) if isinstance(op, Layer)]

    def _step(self) -> ir.Function:
        code = self._function("step", {"state": POINTER, "x": POINTER, "y": POINTER}, bool(self.entries))
        state, x, y = (self._address(code, value) for value in code.function.args)
        if not self.entries:
            self._operations(code, state, x, y)
            return code.finish()
        wrong = self._wrong(code, x)
        with code.when(code.builder.not_(wrong)):
            self._operations(code, state, x, y)
        return code.finish(code.builder.zext(wrong, I32))

    def _wrong(self, code: Code, x: Number) -> Any:
        """Whether the integer there is no number of a row."""
        return code.builder.icmp_unsigned(">=", code.load(x, I32, 4), I32(self.entries))

    def _operations(self, code: Code, state: Number, x: Number, y: Number) -> None:
        floats, weights = self._address(code, self.floats), self._address(code, self.weights)
        blocks = [state + place * 4 for place in self.layout.between]
        for op, place in zip(self.operations, self.layout.places, strict=True):
            if isinstance(op, Layer):
                to = state + place.states * 4 if op.recurrent else blocks[0]
                sizes = [code.number(n) for n in (op.inputs, op.outputs, place.blocks.panels)]
                given = floats + place.floats, weights + place.weights, x, *sizes, to, state + self.layout.work * 4
                code.run(self._layer(op, place), *given)
            elif isinstance(op, Lookup):
                to = blocks[0]
                self._lookup(code, op, floats + place.floats, weights + place.weights, x, to)
            else:
                to = blocks[0]
                self._pointwise(code, op, x, to)
            if to is blocks[0]:
                blocks.reverse()
            x = to
        self._copy(code, y, x, self.operations[-1].outputs)

    def _layer(self, op: Layer, place: Place) -> ir.Function:
        key = op.cell.key if op.recurrent else op.cell.program.text(), place.blocks.units
        if key not in self._known:
            number = len(self._known)
            self._known[key] = define_layer(
                self.module, self.kind, self.stored, op.cell.program, place.blocks.units, number
            )
        return self._known[key]

    def _lookup(self, code: Code, op: Lookup, scales: Number, rows: Number, x: Number, to: Number) -> None:
        vectors, vectors_a_row = Vectors(code, self.kind), -(-op.outputs // self.kind.lanes)
        each = self.kind.lanes * self.stored.size
        index = code.load(x, I32, 4)
        number = Number(code, index if code.word == I32 else code.builder.zext(index, code.word))
        row = rows + number * (vectors_a_row * each)
        with code.loop("vector", 0, vectors_a_row) as k:
            value = self.stored.load(code, self.kind, row + k * each)
            if self.stored.scaled:
                value = vectors.mul(value, vectors.load_spread(scales + number * 4))
            vectors.store(value, to + k * self.vector)

    def _pointwise(self, code: Code, op: Pointwise, x: Number, to: Number) -> None:
        """In whole vectors, of a copy: x itself may end within one."""
        program, number = op.cell.program, len(self._known)
        part = parts.update(program)
        key = program.text()
        if key not in self._known:
            part = replace(part, name=f"pointwise_{number}")
            part.define(self.module, self.kind)
            inner = Code(self.module, f"{part.name}_all", [("to", code.word), ("size", code.word)], None, "noinline")
            v, begin = Vectors(inner, self.kind), inner.argument(0)
            with inner.loop("vector", 0, inner.argument(1), self.vector) as at:
                (value,) = part.call(inner, [v.load(begin + at)] * len(part.inputs))
                v.store(value, begin + at)
            self._known[key] = inner.finish()
        self._copy(code, to, x, op.outputs)
        code.run(self._known[key], to, code.number(-(-op.outputs // self.kind.lanes) * self.vector))

    def _copy(self, code: Code, to: Number, origin: Number, numbers: int) -> None:
        """So many numbers, and nothing beyond them."""
        v, whole = Vectors(code, self.kind), numbers // self.kind.lanes * self.vector
        with code.loop("vector", 0, whole, self.vector) as at:
            v.store(v.load(origin + at), to + at)
        with code.loop("number", whole, numbers * 4, 4) as at:
            code.store(code.load(origin + at, self.kind.scalar, 4), to + at, 4)

    def _run(self, step: ir.Function) -> None:
        arguments = {"state": POINTER, "steps": self.module.word, "x": POINTER, "y": POINTER}
        code = self._function("run", arguments, bool(self.entries))
        state, steps, x, y = code.function.args
        count, x_at, y_at = Number(code, steps), self._address(code, x), self._address(code, y)
        first = self.operations[0]
        inputs = 1 if self.entries else features(self.operations)
        outputs = self.operations[-1].outputs

        def all_steps() -> None:
            with code.loop("step", 0, count) as t:
                given = [state, (x_at + t * (4 * inputs)).pointer, (y_at + t * (4 * outputs)).pointer]
                code.builder.call(step, given)

        if not isinstance(first, Lookup):
            all_steps()
            code.finish()
            return
        wrong = code.variable(ir.IntType(1), ir.IntType(1)(0))
        with code.loop("check", 0, count) as t:
            wrong.set(code.builder.or_(wrong.get(), self._wrong(code, x_at + t * 4)))
        with code.when(code.builder.not_(wrong.get())):
            all_steps()
        code.finish(code.builder.zext(wrong.get(), I32))


def features(operations: list[Operation]) -> int:
    """Of an input step: I, or 1 where that is a number of a row."""
    first = operations[0]
    if isinstance(first, Lookup):
        return 1
    return first.inputs if isinstance(first, Layer) else first.outputs

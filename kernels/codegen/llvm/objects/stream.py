"""A cell's step for one stream, as LLVM: each stage's products, panel by panel of units, and on their sums the
equations.

What a step needs is read in the order in which it is stored: the parameters, then by stage and panel the biases, where
weights are scaled the scales, and, apart from these, the weights. Sizes are arguments, so that layers of one cell share
the code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import Code, Number
from gatefuse.kernels.codegen.llvm.objects.stages import INPUT, Stage, kept, multiplied, stages
from gatefuse.kernels.codegen.llvm.objects.stored import Stored
from gatefuse.kernels.codegen.llvm.parts import OF_UNITS, Part
from gatefuse.kernels.codegen.llvm.reductions import reduced, unit_share
from gatefuse.kernels.codegen.llvm.routines import Module
from gatefuse.kernels.codegen.llvm.vectors import Float, Vectors
from gatefuse.kernels.equations.program import Program

_NAMES = ("floats", "weights", "x", "I", "H", "panels", "states", "work")


def define_layer(module: Module, kind: Float, stored: Stored, program: Program, units: int, number: int) -> ir.Function:
    """A function of numbers: where its floats and weights begin, x, its I features, H units in so many panels, the
    states, each a row of whole panels, and work_rows of memory."""
    return _Layer(module, kind, stored, program, units, number).define()


class _Layer:
    def __init__(self, module: Module, kind: Float, stored: Stored, program: Program, units: int, number: int):
        self.kind, self.stored, self.program, self.units = kind, stored, program, units
        self.stages, self._unique = stages(program), f"_{number}"
        for stage in self.stages:
            self._own(stage.part).define(module, kind)
        self.code = Code(module, f"layer{self._unique}", [(n, module.word) for n in _NAMES], None, "noinline")
        self.given = {name: self.code.argument(k) for k, name in enumerate(_NAMES)}
        self.vectors, self.vector = Vectors(self.code, kind), kind.lanes * kind.size
        self.row = self.given["panels"] * (units * self.vector)
        self._multiplied, self._kept = multiplied(program), kept(program)
        self._fed = [k for stage in self.stages for k in stage.fed]
        most = max(len(stage.slots) for stage in self.stages)
        self._sums = self.code.room(kind.vector, max(1, most * units), self.vector)
        most = max(len(stage.means) for stage in self.stages)
        self._means = self.code.room(kind.vector, max(1, most), self.vector)
        self._of_units = unit_share(self.vectors, self.given["H"])

    def _own(self, part: Part) -> Part:
        """The part by a name that no other layer's has."""
        return replace(part, name=part.name + self._unique)

    def define(self) -> ir.Function:
        code, given, parameters = self.code, self.given, self.program.cell.parameters
        for place, s in enumerate(self._multiplied):
            origin = given["states"] + self.row * s
            with code.loop("unit", 0, self.row, self.vector) as at:
                self.vectors.store(self.vectors.load(origin + at), self._work(place) + at)
        self._floats = code.variable(code.word, (given["floats"] + self.row * len(parameters)).value)
        self._weights = code.variable(code.word, given["weights"].value)
        for stage in self.stages:
            for place, (product, _) in enumerate(stage.means):
                kind, at = self.program.products[product].reduces, self._factor(product)
                found = reduced(self.vectors, kind, at, given["H"], self._of_units)
                self.vectors.store(found, self._means + place * self.vector)
            with code.loop("panel", 0, given["panels"]) as j:
                self._multiply(stage)
                with code.loop("vector", 0, self.units) as u:
                    self._run(stage, u * self.vector, (j * self.units + u) * self.vector)
        return code.finish()

    def _work(self, place: int) -> Number:
        return self.given["work"] + self.row * place

    def _next(self, variable: Any, size: Number | int) -> Number:
        """Where a pointer is, which goes on by so many bytes."""
        at = Number(self.code, variable.get())
        variable.set((at + size).value)
        return at

    def _multiply(self, stage: Stage) -> None:
        """A panel's sums, from its biases on."""
        code, given, n = self.code, self.given, len(stage.slots) * self.units
        if not n:
            return
        biases = self._next(self._floats, n * self.vector)
        with code.loop("bias", 0, n * self.vector, self.vector) as at:
            self.vectors.store(self.vectors.load(biases + at), self._sums + at)
        for product, first, gates in stage.segments:
            count = len(gates) * self.units
            factor, K = (given["x"], given["I"]) if product == INPUT else (self._factor(product), given["H"])
            weights = self._next(self._weights, K * (count * self.kind.lanes * self.stored.size))
            scales = self._next(self._floats, count * self.vector) if self.stored.scaled else code.number(0)
            sums = self._sums + first * self.units * self.vector
            code.run(define_product(code.module, self.kind, self.stored, count), weights, scales, factor, sums, K)

    def _factor(self, product: int) -> Number:
        """Where the vector lies that a product multiplies."""
        p = self.program.products[product]
        if not p.computed:
            return self._work(self._multiplied.index(p.state))
        return self._work(len(self._multiplied) + self._fed.index(product))

    def _slot(self, name: str) -> Number:
        """Where a slot that a later stage reads is kept."""
        return self._work(len(self._multiplied) + len(self._fed) + self._kept.index(name))

    def _run(self, stage: Stage, within: Number, at: Number) -> None:
        """The equations for a vector of units: so many bytes into the panel's sums of a slot, and into a row."""
        v, cell, known = self.vectors, self.program.cell, {}
        sums = [self._sums + place * self.units * self.vector + within for place in range(len(stage.slots))]
        means = [self._means + place * self.vector for place in range(len(stage.means))]
        for slot, origin in zip(stage.known, (*sums, *means), strict=True):
            known[slot.name] = v.load(origin)
            if slot.name in self._kept:
                v.store(known[slot.name], self._slot(slot.name) + at)
        for name in stage.part.inputs:
            if name in known:
                continue
            if name in cell.states:
                known[name] = v.load(self.given["states"] + self.row * cell.states.index(name) + at)
            elif name in cell.parameters:
                known[name] = v.load(self.given["floats"] + self.row * cell.parameters.index(name) + at)
            elif name == OF_UNITS:
                known[name] = self._of_units
            else:
                known[name] = v.load(self._slot(name) + at)
        results = self._own(stage.part).call(self.code, [known[name] for name in stage.part.inputs])
        places = [self._factor(k) for k in stage.fed] or [
            self.given["states"] + self.row * s for s in range(len(cell.states))
        ]
        for result, where in zip(results, places, strict=True):
            v.store(result, where + at)


def define_product(module: Module, kind: Float, stored: Stored, vectors: int) -> ir.Function:
    """The routine (weights, scales, a, sums, K): to each of so many vectors of sums the sum over k of a[k] times
    weights[k][vector], which stays in registers."""
    name, names = f"product_{vectors}", ("weights", "scales", "a", "sums", "K")
    if name in module.globals:
        return module.globals[name]
    code = Code(module, name, [(n, module.word) for n in names], None, "noinline")
    weights, scales, a, sums, K = (code.argument(k) for k in range(len(names)))
    v, size, each = Vectors(code, kind), kind.lanes * kind.size, kind.lanes * stored.size
    zero = v.number(0.0)
    totals = [code.variable(kind.vector, zero if stored.scaled else v.load(sums + size * k)) for k in range(vectors)]
    with code.loop("k", 0, K) as k:
        value = v.load_spread(a + k * kind.size)
        for i, total in enumerate(totals):
            weight = stored.load(code, kind, weights + k * (each * vectors) + each * i)
            total.set(v.mul_add(value, weight, total.get()))
    for i, total in enumerate(totals):
        found, at = total.get(), sums + size * i
        if stored.scaled:
            found = v.mul_add(found, v.load(scales + size * i), v.load(at))
        v.store(found, at)
    return code.finish()

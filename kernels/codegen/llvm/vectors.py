"""Arithmetic of vectors: as many lanes of a floating type as a register of the processor has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import I1, I32, I64, Code, Number
from gatefuse.kernels.codegen.llvm.processor import Processor

# Products and sums may round once where the processor can; nothing else may be changed.
_FLAGS = ("contract",)
# Larger ones round to infinity in float32.
_LARGEST = (2 - 2**-24) * 2.0**127


class Float:
    """A floating type as LLVM has it, and its vectors.

    Args:
        size: its bytes, 4 or 8.
        lanes: of a vector.
        fused: whether the processor's products and sums round once.
    """

    def __init__(self, size: int, lanes: int, fused: bool):
        self.size, self.lanes, self.fused = size, lanes, fused
        self.scalar = ir.FloatType() if size == 4 else ir.DoubleType()
        self.integer = I32 if size == 4 else I64
        self.vector, self.integers = ir.VectorType(self.scalar, lanes), ir.VectorType(self.integer, lanes)
        self.truths = ir.VectorType(I1, lanes)
        self.suffix = f"v{lanes}f{8 * size}"
        # bits of the mantissa, and what is added to an exponent
        self.mantissa, self.bias = (23, 127) if size == 4 else (52, 1023)

    @classmethod
    def of(cls, size: int, processor: Processor) -> Float:
        return cls(size, processor.lanes(size), processor.fused)


class Vectors:
    """Arithmetic in a function: each method adds to the code, and returns a vector or, of comparisons, truths."""

    def __init__(self, code: Code, kind: Float):
        self.code, self.kind = code, kind

    @property
    def _b(self) -> ir.IRBuilder:
        return self.code.builder

    def number(self, value: float) -> Any:
        """That number in all lanes, as the type has it: infinite where it is too large."""
        value = float(value)
        if self.kind.size == 4 and abs(value) >= _LARGEST:
            value = math.copysign(math.inf, value)
        return ir.Constant(self.kind.vector, [value] * self.kind.lanes)

    def bits(self, value: int) -> Any:
        return ir.Constant(self.kind.integers, [value] * self.kind.lanes)

    def truth(self, value: bool) -> Any:
        return ir.Constant(self.kind.truths, [int(value)] * self.kind.lanes)

    def add(self, a: Any, c: Any) -> Any:
        return self._b.fadd(a, c, flags=_FLAGS)

    def sub(self, a: Any, c: Any) -> Any:
        return self._b.fsub(a, c, flags=_FLAGS)

    def mul(self, a: Any, c: Any) -> Any:
        return self._b.fmul(a, c, flags=_FLAGS)

    def div(self, a: Any, c: Any) -> Any:
        return self._b.fdiv(a, c)

    def neg(self, a: Any) -> Any:
        return self._b.fneg(a)

    def mul_add(self, a: Any, c: Any, d: Any) -> Any:
        """a * c + d, rounded once where the processor can."""
        if self.kind.fused:
            return self.intrinsic("fma", a, c, d)
        return self._b.fadd(self._b.fmul(a, c), d)

    def intrinsic(self, name: str, *values: Any) -> Any:
        return self.code.call(f"llvm.{name}.{self.kind.suffix}", self.kind.vector, *values)

    def compare(self, sign: str, a: Any, c: Any) -> Any:
        """Truths; false where one is not-a-number, but for !=."""
        if sign == "!=":
            return self._b.fcmp_unordered(sign, a, c)
        return self._b.fcmp_ordered(sign, a, c)

    def select(self, truths: Any, a: Any, c: Any) -> Any:
        return self._b.select(truths, a, c)

    def both(self, a: Any, c: Any) -> Any:
        return self._b.and_(a, c)

    def any(self, a: Any, c: Any) -> Any:
        return self._b.or_(a, c)

    def no(self, a: Any) -> Any:
        return self._b.xor(a, self.truth(True))

    def at_least(self, a: Any, low: Any) -> Any:
        """a, and low where a is below it; not-a-number stays."""
        return self.select(self.compare(">", low, a), low, a)

    def at_most(self, a: Any, high: Any) -> Any:
        return self.select(self.compare("<", high, a), high, a)

    def total(self, a: Any) -> Any:
        """The sum of a's lanes, in all of them."""
        return self._over_lanes(a, self.add)

    def largest(self, a: Any) -> Any:
        """The largest of a's lanes, in all of them; not-a-number where one is."""
        return self._over_lanes(a, self.larger)

    def _over_lanes(self, a: Any, join: Callable[[Any, Any], Any]) -> Any:
        """Halves are joined, then their halves."""
        width = self.kind.lanes // 2
        while width:
            order = ir.Constant(ir.VectorType(I32, self.kind.lanes), [k ^ width for k in range(self.kind.lanes)])
            a = join(a, self._b.shuffle_vector(a, a, order))
            width //= 2
        return a

    def larger(self, a: Any, c: Any) -> Any:
        """The larger, not-a-number where one is."""
        return self.select(self._b.fcmp_unordered("uno", a, a), a, self.at_least(c, a))

    def smaller(self, a: Any, c: Any) -> Any:
        return self.select(self._b.fcmp_unordered("uno", a, a), a, self.at_most(c, a))

    def as_bits(self, a: Any) -> Any:
        return self._b.bitcast(a, self.kind.integers)

    def as_number(self, bits: Any) -> Any:
        return self._b.bitcast(bits, self.kind.vector)

    def lanewise(self, name: str, *vectors: Any) -> Any:
        """A function of the C library, lane by lane."""
        name += "f" if self.kind.size == 4 else ""
        found = vectors[0]
        for k in range(self.kind.lanes):
            values = [self._b.extract_element(each, I32(k)) for each in vectors]
            found = self._b.insert_element(found, self.code.call(name, self.kind.scalar, *values), I32(k))
        return found

    def spread(self, value: Any) -> Any:
        """A scalar in all lanes."""
        kind = ir.VectorType(value.type, self.kind.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(I32, self.kind.lanes), [0] * self.kind.lanes)
        return self._b.shuffle_vector(self._b.insert_element(undefined, value, I32(0)), undefined, zeros)

    def within(self, count: Number) -> Any:
        """Truths: true in that many first lanes."""
        counts = ir.VectorType(count.value.type, self.kind.lanes)  # as wide as an address
        lanes = ir.Constant(counts, list(range(self.kind.lanes)))
        return self._b.icmp_signed("<", lanes, self.spread(count.value))

    def load(self, at: Number, mask: Any = None) -> Any:
        """The numbers there; with a mask, zero where that is false, which is not read."""
        if mask is None:
            return self.code.load(at, self.kind.vector, self.kind.size)
        name = f"llvm.masked.load.{self.kind.suffix}.p0"
        return self.code.call(name, self.kind.vector, at.pointer, I32(self.kind.size), mask, self.number(0.0))

    def store(self, value: Any, at: Number, mask: Any = None) -> None:
        if mask is None:
            self.code.store(value, at, self.kind.size)
        else:
            name = f"llvm.masked.store.{self.kind.suffix}.p0"
            self.code.call(name, ir.VoidType(), value, at.pointer, I32(self.kind.size), mask)

    def load_spread(self, at: Number) -> Any:
        """The one number there in all lanes."""
        return self.spread(self.code.load(at, self.kind.scalar, self.kind.size))

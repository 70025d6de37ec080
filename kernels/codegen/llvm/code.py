"""A function of LLVM under construction: numbers that count and point, loops and conditions, in the order of the
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

I1, I8, I32, I64, POINTER = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.PointerType()


class Number:
    """An integer as wide as an address, which counts, or in bytes says where something lies."""

    def __init__(self, code: Code, value: Any):
        self._code, self.value = code, value

    def _other(self, other: Any) -> Any:
        return other.value if isinstance(other, Number) else self._code.word(int(other))

    def _of(self, operation: str, other: Any) -> Number:
        return Number(self._code, getattr(self._code.builder, operation)(self.value, self._other(other)))

    def __add__(self, other: Any) -> Number:
        return self._of("add", other)

    def __sub__(self, other: Any) -> Number:
        return self._of("sub", other)

    def __mul__(self, other: Any) -> Number:
        return self._of("mul", other)

    def __floordiv__(self, other: Any) -> Number:
        return self._of("udiv", other)

    def modulo(self, other: Any) -> Number:
        """What is left of the division."""
        return self._of("urem", other)

    __radd__, __rmul__ = __add__, __mul__

    def compare(self, sign: str, other: Any) -> Any:
        """A truth, i1."""
        return self._code.builder.icmp_signed(sign, self.value, self._other(other))

    def least(self, other: Any) -> Number:
        """The smaller of the two."""
        other = Number(self._code, self._other(other))
        return self._code.choose(self.compare("<", other), self, other)

    def most(self, other: Any) -> Number:
        """The larger of the two."""
        other = Number(self._code, self._other(other))
        return self._code.choose(self.compare(">", other), self, other)

    @property
    def pointer(self) -> Any:
        """The place in memory of that number."""
        return self._code.builder.inttoptr(self.value, POINTER)


class Code:
    """A function and the place in it where code goes.

    Args:
        arguments: names of its arguments, and their types.
        result: the type of what it returns.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        arguments: Sequence[tuple[str, ir.Type]],
        result: ir.Type | None = None,
        *attributes: str,
        public: bool = False,
    ):
        self.module = module
        self.word = getattr(module, "word", I64)  # as wide as an address
        kind = ir.FunctionType(result or ir.VoidType(), [each for _, each in arguments])
        self.function = ir.Function(module, kind, name)
        if not public:
            self.function.linkage = "internal"
        for attribute in ("nounwind", *attributes):
            self.function.attributes.add(attribute)
        for attribute in getattr(module, "attributes", ()):
            set.add(self.function.attributes, attribute)  # past llvmlite's own list of what there is
        for value, (given, _) in zip(self.function.args, arguments, strict=True):
            value.name = given
        self._entry = self.function.append_basic_block("entry")
        self.builder = ir.IRBuilder(self.function.append_basic_block("begin"))
        self._places = ir.IRBuilder(self._entry)

    def finish(self, result: Any = None) -> ir.Function:
        """The whole function, which returns that."""
        if result is None:
            self.builder.ret_void()
        else:
            self.builder.ret(result)
        self._places.branch(self.function.basic_blocks[1])
        return self.function

    def argument(self, k: int) -> Number:
        """Argument k, a number."""
        return Number(self, self.function.args[k])

    def number(self, value: int) -> Number:
        return Number(self, self.word(value))

    def room(self, kind: ir.Type, count: int = 1, align: int = 64) -> Number:
        """Memory for that many of a type, for as long as the function runs."""
        place = self._places.alloca(kind, size=self.word(count))
        place.align = align
        return Number(self, self._places.ptrtoint(place, self.word))

    def variable(self, kind: ir.Type, first: Any) -> Variable:
        """A value that changes."""
        return Variable(self, kind, first)

    def load(self, at: Number, kind: ir.Type, align: int | None = None) -> Any:
        return self.builder.load(at.pointer, typ=kind, align=align or 1)

    def store(self, value: Any, at: Number, align: int | None = None) -> None:
        self.builder.store(value, at.pointer, align=align or 1)

    def load_number(self, at: Number) -> Number:
        return Number(self, self.load(at, self.word, self.word.width // 8))

    def store_number(self, value: Number, at: Number) -> None:
        self.store(value.value, at, self.word.width // 8)

    def choose(self, truth: Any, first: Number, second: Number) -> Number:
        return Number(self, self.builder.select(truth, first.value, second.value))

    def call(self, name: str, result: ir.Type, *values: Any) -> Any:
        """A call of a function of that name, which is declared where it isn't known."""
        found = self.module.globals.get(name)
        if found is None:
            found = ir.Function(self.module, ir.FunctionType(result, [v.type for v in values]), name)
            if not name.startswith("llvm."):
                found.calling_convention = getattr(self.module, "convention", "")
        return self.builder.call(found, values, cconv=found.calling_convention)

    def run(self, function: ir.Function, *values: Number) -> None:
        """A call of a function that takes numbers and returns nothing."""
        self.builder.call(function, [value.value for value in values])

    def move(self, to: Number, origin: Number, size: Number) -> None:
        """Copy bytes, which may be the same ones."""
        kind = [POINTER, POINTER, I64]
        move = self.module.declare_intrinsic("llvm.memmove", kind)
        self.builder.call(move, [to.pointer, origin.pointer, size.value, I1(0)])

    def clear(self, at: Number, size: Number) -> None:
        """Set bytes to zero."""
        fill = self.module.declare_intrinsic("llvm.memset", [POINTER, I64])
        self.builder.call(fill, [at.pointer, I8(0), size.value, I1(0)])

    @contextmanager
    def loop(self, name: str, first: Any, last: Any, step: int = 1) -> Iterator[Number]:
        """for i in range(first, last, step)"""
        b, first = self.builder, first if isinstance(first, Number) else self.number(first)
        last = last if isinstance(last, Number) else self.number(last)
        before = b.block
        head, body, end = (self.function.append_basic_block(f"{name}.{part}") for part in ("head", "body", "end"))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(self.word, name)
        i.add_incoming(first.value, before)
        b.cbranch(b.icmp_signed("<", i, last.value), body, end)
        b.position_at_end(body)
        yield Number(self, i)
        i.add_incoming(b.add(i, self.word(step)), b.block)
        b.branch(head)
        b.position_at_end(end)

    def switch(self, functions: Sequence[ir.Function], n: Any, values: Sequence[Any]) -> None:
        """Call function n of those, counted from 1."""
        b = self.builder
        end = self.function.append_basic_block("end")
        switch = b.switch(n, end)
        for k, function in enumerate(functions, 1):
            block = self.function.append_basic_block(f"case_{k}")
            switch.add_case(I64(k), block)
            b.position_at_end(block)
            b.call(function, values)
            b.branch(end)
        b.position_at_end(end)

    @contextmanager
    def when(self, truth: Any) -> Iterator[None]:
        with self.builder.if_then(truth):
            yield

    @contextmanager
    def either(self, truth: Any) -> Iterator[tuple[Any, Any]]:
        """Two blocks: where that is true, and where not."""
        with self.builder.if_else(truth) as (then, other):
            yield then, other


class Variable:
    """A value that changes while a function runs."""

    def __init__(self, code: Code, kind: ir.Type, first: Any):
        self._code, self._kind = code, kind
        self._place = code._places.alloca(kind)
        self.set(first)

    def get(self) -> Any:
        return self._code.builder.load(self._place, typ=self._kind)

    def set(self, value: Any) -> None:
        self._code.builder.store(value, self._place)

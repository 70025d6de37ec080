"""The arguments of a compiled loop: 64-bit integers in a row in memory, known by name on both sides."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from gatefuse.kernels.codegen.llvm.code import Code, Number


class Fields:
    """Names of arguments, in their order."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._kind = ctypes.c_int64 * len(self.names)

    def filled(self, values: dict[str, int]) -> ctypes.Array[ctypes.c_int64]:
        """The arguments of these values, one for each name."""
        return self._kind(*[values[name] for name in self.names])

    def place(self, base: Number, name: str) -> Number:
        """Where an argument lies."""
        return base + 8 * self.names.index(name)

    def load(self, code: Code, base: Number) -> dict[str, Number]:
        """All arguments, by name."""
        return {name: code.load_number(self.place(base, name)) for name in self.names}

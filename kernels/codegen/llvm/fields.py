"""The arguments of a compiled loop: 64-bit integers in a row in memory, known by name on both sides."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from gatefuse.kernels.codegen.llvm.code import Code, Number


class Fields:
    """Names of arguments, in their order."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._kind = ctypes.c_int64 * len(self.names)

    def filled(self, values: dict[str, int]) -> ctypes.Array[ctypes.c_int64]:
        """The arguments of these values, one for each name."""
        return self._kind(*[values[name] for name in self.names])

    def template(self, numbers: dict[str, int]) -> Template:
        """Arguments of which these are known, and the others are addresses, which each call brings."""
        return Template(self, numbers)

    def place(self, base: Number, name: str) -> Number:
        """Where an argument lies."""
        return base + 8 * self.names.index(name)

    def load(self, code: Code, base: Number) -> dict[str, Number]:
        """All arguments, by name."""
        return {name: code.load_number(self.place(base, name)) for name in self.names}


class Template:
    """Arguments of which the numbers are known."""

    def __init__(self, fields: Fields, numbers: dict[str, int]):
        names = fields.names
        self._known = fields.filled({name: numbers.get(name, 0) for name in names})
        self._kind = type(self._known)
        self._places = tuple((name, k) for k, name in enumerate(names) if name not in numbers)

    def filled(self, addresses: Mapping[str, int]) -> ctypes.Array[ctypes.c_int64]:
        """The arguments with these addresses."""
        found = self._kind.from_buffer_copy(self._known)
        for name, k in self._places:
            found[k] = addresses[name]
        return found

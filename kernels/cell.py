"""A cell is its equations: what a person writes, and what can be read off it without running it.

    @gatefuse.cell(gates="i f g o")
    def lstm(x, R, h, c):
        a = x + R(h)
        c = sigmoid(a.f) * c + sigmoid(a.i) * tanh(a.g)
        return sigmoid(a.o) * tanh(c), c

``x`` holds W_ih x_t + b_ih by gate, ``R(v)`` is W_hh v + b_hh by gate and ``R.f(v)`` its part for gate f alone. The
other positional names are the states, the first of which is the output; keyword-only names are per-unit parameters.
Nothing is traced or compiled here: see trace.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import Tensor

from gatefuse.kernels.equations.gates import Gates, Recurrence
from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.equations.signature import (
    check_function,
    check_names,
    formed,
    one_for_each,
    read_gates,
    read_init,
    read_sides,
    read_signature,
)
from gatefuse.kernels.equations.tracing.known import Known, known, open_ended

if TYPE_CHECKING:
    from gatefuse.kernels.equations.program import Program

_MOST = 8  # versions of one cell's equations, after which they are taken to change for ever
_numbers = count()
_by_serial: WeakValueDictionary[str, Cell] = WeakValueDictionary()
_by_label: dict[str, WeakSet[Cell]] = {}
_by_key: WeakValueDictionary[str, Version] = WeakValueDictionary()


class Cell:
    """A recurrent cell, known by its equations. Made by ``gatefuse.cell``.

    Attributes:
        name: the function's name.
        gates, declared: names of the gates, alone and with the sides that they were declared to have.
        input_gates, recurrent_gates: those that the input feeds, and R, in the order of the rows of its weights.
        states: names of the S states; the first is the output.
        parameters: names of the per-unit parameters, each of shape (H,).
        init: the value each state starts from where none is given.
        serial: a name that no other cell in this process has.
        made: what was made of the cell, code for one; it lives as long as the cell does.
    """

    def __init__(
        self,
        equations: Callable[..., Tensor | tuple[Tensor, ...]],
        gates: Sequence[str],
        init: Mapping[str, float] | None = None,
    ):
        check_function(equations)
        self.equations = equations
        self.name = equations.__name__
        self.declared = tuple(gates)
        self.gates, self.input_gates, self.recurrent_gates = read_sides(self.declared)
        self.states, self.parameters = read_signature(equations)
        check_names(self)
        self.init = read_init(self.name, self.states, init)
        self.__doc__ = equations.__doc__
        self.__module__, self.__qualname__ = equations.__module__, equations.__qualname__
        self.made: dict[Any, Any] = {}
        self.serial = f"{self.name}-{next(_numbers)}"
        self._versions: tuple[Version, ...] = ()  # the latest first
        self._lock = Lock()
        _by_serial[self.serial] = self
        _by_label.setdefault(self.label, WeakSet()).add(self)

    @staticmethod
    def by_serial(serial: str) -> Cell:
        """The cell that has that name in this process."""
        return _by_serial[serial]

    @staticmethod
    def by_key(key: str) -> Version:
        """The equations that an operator's ``cell`` argument names.

        Raises:
            ValueError: no cell in this process has these equations.
        """
        found = _by_key.get(key)
        return _search(key) if found is None else found

    @staticmethod
    def named(name: str) -> Cell:
        """The cell that has that serial in this process, or that key, by which files know it.

        Raises:
            ValueError, RuntimeError: as by_key and unchanged, for a key.
        """
        return Cell.by_key(name).unchanged().origin if ":" in name else _by_serial[name]

    @property
    def label(self) -> str:
        """Module and name, as a key begins."""
        return f"{self.__module__}.{self.__qualname__}"

    def current(self) -> Version:
        """The equations with what they use from outside as it is now: numbers, for one, which may have changed."""
        found = self._held()
        if found is None:
            with self._lock:
                found = self._held()  # another thread may have made it meanwhile
                if found is None:
                    found = self._renewed()
                    self._versions = found, *self._versions
                    _by_key[found.key] = found
        return found

    def _held(self) -> Version | None:
        for version in self._versions:
            if version.holds():
                return version
        return None

    def _renewed(self) -> Version:
        if len(self._versions) < _MOST:
            return Version(self, known(self))
        changed = sorted({r.text for v in self._versions for r in v.outside if not r.holds()})
        why = f"use {', '.join(changed)} from outside, which changes too often; learn it as a keyword-only parameter"
        return Version(self, open_ended(self, why))

    @property
    def key(self) -> str:
        """Module, name and a fingerprint of the equations as they are now: what operators and files name them by."""
        return self.current().key

    @property
    def refusal(self) -> str:
        """Why the equations can't be made into code; "" where they can. The eager driver runs them in any case."""
        return self.current().refusal

    @property
    def program(self) -> Program:
        """The traced equations: stages, products, forward and backward.

        Raises:
            TranslationError: they can't be translated; says which operator, or which rule.
        """
        return self.current().program

    def step(
        self, x: Gates, R: Recurrence, states: Sequence[Tensor], parameters: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """One step of the equations as they were written: the new states, each (B, H).

        Raises:
            TypeError, ValueError: they return too few or too many states, what is no tensor, or another shape.
        """
        out = one_for_each(self, self.equations(x, R, *states, **parameters))
        for new, old in zip(out, states, strict=True):
            if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
                return tuple([formed(self, *each) for each in zip(self.states, out, states, strict=True)])
        return out

    def __repr__(self) -> str:
        return f"<cell {self.name}: gates {' '.join(self.declared)}, states {' '.join(self.states)}>"

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        # As functions are: by reference, and by value by those who do so with functions, as cloudpickle in __main__. By
        # this name the function is found where the cell is, which has taken its own.
        if protocol < 4:  # dotted names are not for these
            return self.__qualname__
        self.equations.__qualname__ = f"{self.__qualname__}.equations"
        return _unpickled, (self.equations, self.declared, self.init)

    def __copy__(self) -> Cell:
        return self

    def __deepcopy__(self, memo: dict) -> Cell:
        return self


class Version(Cell):
    """A cell's equations as they are at one time: what code is generated of, and operators name.

    Attributes:
        origin: the cell.
        key, refusal: as the cell's, but fixed.
        closed: whether the key stands for all that the equations compute, so that a file can name them.
        outside: what they use from outside, as it was.
    """

    key = ""
    refusal = ""

    def __init__(self, origin: Cell, found: Known):
        vars(self).update(vars(origin))
        self.made = {}
        self.origin = origin
        self.key = f"{origin.label}:{found.fingerprint}"
        self.refusal, self.closed, self.outside = found.refusal, found.closed, found.outside
        self._default = torch.get_default_dtype()  # of torch.tensor(0.5), for one
        self._program = None if found.program is None else replace(found.program, cell=self)

    @property
    def program(self) -> Program:
        if self._program is None:
            raise TranslationError(self.refusal)
        return self._program

    def current(self) -> Version:
        return self

    def holds(self) -> bool:
        """Whether the equations are still these; of those that can't be foreseen no more is to be said."""
        if self.equations is not self.origin.equations or self._default is not torch.get_default_dtype():
            return False
        for reference in self.outside:  # noqa: SIM110, as each call asks, and a generator costs more than the answer
            if not reference.holds():
                return False
        return True

    def unchanged(self) -> Version:
        """This version, if the cell's equations are still these.

        Raises:
            RuntimeError: what they use from outside is another than it was.
        """
        if not self.holds():
            changed = [reference.text for reference in self.outside if not reference.holds()]
            raise RuntimeError(
                f"a program must run the equations of {self.name} that it was made of: make it anew where they change. "
                f"Got another value of {', '.join(changed) or 'the function, or of the default dtype'}."
            )
        return self


def _search(key: str) -> Version:
    """The version of that key, whose cell may not have been used yet."""
    label, _, _ = key.rpartition(":")
    if label.startswith("gatefuse.") and label not in _by_label:
        import_module(label.rpartition(".")[0])
    cells = list(_by_label.get(label, ()))
    for found in cells:
        if found.key == key:
            return found.current()
    if not cells:
        raise ValueError(f"cell must be the key of a cell defined in this process. Got {key!r}.")
    raise ValueError(
        f"a program must run the equations that it was made of. Got {key!r}, where {label} has other equations now: "
        f"{cells[0].key!r}."
    )


def _unpickled(equations: Callable[..., Any], gates: Sequence[str], init: Sequence[float]) -> Cell:
    """The cell of these equations: the one that was referred to, or where their value came along, a new one."""
    qualname = equations.__qualname__.removesuffix(".equations")
    found: Any = sys.modules.get(equations.__module__)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if isinstance(found, Cell) and found.equations is equations:
        return found
    equations.__qualname__ = qualname
    return Cell(equations, gates, dict(zip(read_signature(equations)[0], init, strict=True)))


def cell(gates: str, init: Mapping[str, float] | None = None) -> Callable[[Callable[..., Any]], Cell]:
    """Make a cell of a function ``f(x, R, state, ..., *, parameter, ...)`` that holds its equations.

    In the function ``x.f`` is gate f of W_ih x_t + b_ih, (B, H); ``R.f(v)`` is gate f of W_hh v + b_hh for any vector v
    (B, H), and ``R(v)`` are all gates; states are (B, H) each, parameters (H,). It returns the new states in their
    order, the output first. It is traced later, when somebody asks for code; if none can be made, it runs eagerly.

    Args:
        gates: the gates' names, separated by blanks, in the order of the weights' rows. ``c:x`` is a gate that only the
            input feeds, of which there is no R.c and no recurrent weight; ``m:R`` one that only R feeds, without x.m.
        init: first values of states that don't start from zero.

    Returns:
        A decorator that makes the Cell.

    Raises:
        TypeError: ``gates`` is no text, ``init`` gives no numbers by state, or the signature is not
            ``(x, R, state, ..., *, parameter, ...)``.
        ValueError: a gate is named twice or is not a name, or has another side than x or R; the input feeds none;
            ``init`` names no state.
    """
    names = read_gates(gates)
    return lambda equations: Cell(equations, names, init)

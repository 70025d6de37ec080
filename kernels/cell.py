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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from gatefuse.kernels import registry
from gatefuse.kernels.equations.declaration import Declaration, Declared, declare
from gatefuse.kernels.equations.gates import Gates
from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.equations.parameters import FirstValue
from gatefuse.kernels.equations.recurrence import Recurrence
from gatefuse.kernels.equations.signature import formed, one_for_each, read_gates
from gatefuse.kernels.equations.tracing.known import Known, known, open_ended
from gatefuse.kernels.pickling import carried, own_name, reduced

if TYPE_CHECKING:
    from gatefuse.kernels.equations.program import Program
    from gatefuse.kernels.noise.noisy_cell import Noise

_MOST = 8  # versions of one cell's equations, after which they are taken to change for ever
_numbers = count()


class Cell(Declared):
    """A recurrent cell, known by its equations, with all that it declares. Made by ``gatefuse.cell``.

    Args:
        equations: the function.
        declaration: what it declares, of which each value is an attribute of the cell too, such as gates and states.

    Attributes:
        name: the function's name.
        serial: a name that no other cell in this process has.
        made: what was made of the cell, code for one; it lives as long as the cell does.
        given: what the equations are given in the place of x, R and the parameters, as a function of these; or None.
    """

    def __init__(self, equations: Callable[..., Tensor | tuple[Tensor, ...]], declaration: Declaration):
        super().__init__(declaration)
        self.equations = equations
        self.name = equations.__name__
        self.__doc__ = equations.__doc__
        self.__module__, self.__qualname__ = equations.__module__, own_name(equations)
        self.made: dict[Any, Any] = {}
        self.serial = f"{self.name}-{next(_numbers)}"
        self._versions: tuple[Version, ...] = ()  # the latest first
        self._lock = Lock()
        self.given: Callable[[Gates, Any, Mapping[str, Tensor]], tuple[Any, Any, Mapping[str, Tensor]]] | None = None
        self._first: Cell | None = None  # the cell that this one is, but for its constants
        self._others: WeakValueDictionary[str, Cell] = WeakValueDictionary()  # of this one's, by their constants
        registry.enter(self)

    noise: tuple[Noise, ...] = ()  # what a layer draws in training

    @property
    def trained(self) -> Cell:
        """The cell that runs in training: another where there is noise."""
        return self

    by_serial = staticmethod(registry.by_serial)
    by_key = staticmethod(registry.by_key)
    named = staticmethod(registry.named)

    def with_(self, **constants: float) -> Cell:
        """The cell of the same equations with other values of some of its constants.

        Raises:
            TypeError: a value is no number.
            ValueError: the cell has no such constant.
        """
        declared = self.declaration.with_constants(self.name, constants)
        if repr(declared.constants) == repr(self.declaration.constants):
            return self
        first = self._first or self
        first._others[repr(first.declaration.constants)] = first
        found = first._others.get(repr(declared.constants))
        if found is None:
            found = first._others[repr(declared.constants)] = Cell(self.equations, declared)
            found._first = first
        return found

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
                    registry.enter_version(found)
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
        if self.given is not None:
            x, R, parameters = self.given(x, R, parameters)
        out = one_for_each(self, self.equations(x, R, *states, **parameters, **self._constants))
        for new, old in zip(out, states, strict=True):
            if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
                return tuple([formed(self, *each) for each in zip(self.states, out, states, strict=True)])
        return out

    def __repr__(self) -> str:
        sizes = "".join([f", {size} {' '.join(names)}" for size, names in self.declaration.sizes])
        return f"<cell {self.name}: gates {' '.join(self.declared)}, states {' '.join(self.states)}{sizes}>"

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        return reduced(self, self._first or self, protocol, _unpickled)

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
        self._asked = tuple([(*reference.at_once, reference) for reference in found.outside])
        self._default = torch.get_default_dtype()  # of torch.tensor(0.5), for one
        self._program = None if found.program is None else replace(found.program, cell=self)

    @property
    def program(self) -> Program:
        if self._program is None:
            raise TranslationError(self.refusal)
        return self._program

    def current(self) -> Version:
        return self

    def with_(self, **constants: float) -> Cell:
        return self.origin.with_(**constants)

    def holds(self) -> bool:
        """Whether the equations are still these; of those that can't be foreseen no more is to be said."""
        if self.equations is not self.origin.equations or self._default is not torch.get_default_dtype():
            return False
        for space, name, value, reference in self._asked:  # in each call
            if space.get(name) is not value and not reference.holds():
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


def _unpickled(
    equations: Callable[..., Any],
    gates: tuple[str, ...],
    init: Sequence[float],
    constants: Mapping[str, float] | None = None,
) -> Cell:
    """The cell of these equations: the one that was referred to, or where their value came along, a new one."""
    found = registry.found_in_module(equations, own_name(equations))
    if not isinstance(found, Cell) or found.equations is not equations:
        found = Cell(equations, carried(equations, gates, init))
    return found.with_(**constants) if constants else found


def cell(
    gates: str,
    init: Mapping[str, float] | None = None,
    *,
    bias: str | None = None,
    scalars: str = "",
    constants: Mapping[str, float] | None = None,
    parameter_init: Mapping[str, FirstValue] | None = None,
    inputs: str = "",
    sizes: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Cell]:
    """Make a cell of a function ``f(x, R, state, ..., *, parameter, ...)`` that holds its equations.

    In the function ``x.f`` is gate f of W_ih x_t + b_ih, (B, H); ``R.f(v)`` is gate f of W_hh v + b_hh for any vector v
    (B, H), and ``R(v)`` are all gates; states are (B, H) each, parameters (H,). It returns the new states in their
    order, the output first. It is traced later, when somebody asks for code; if none can be made, it runs eagerly.

    Args:
        gates: the gates' names, separated by blanks, in the order of the weights' rows. ``c:x`` is a gate that only the
            input feeds, of which there is no R.c and no recurrent weight; ``m:R`` one that only R feeds, without x.m.
        init: first values of states that don't start from zero.
        bias: the gates that have a bias, in the same form: ``n:x`` has one beside the input's product alone. Every gate
            has one on each side where None.
        scalars: the parameters that are learned as one number for all units, separated by blanks.
        constants: numbers by keyword-only names, which are no parameters then; ``with_`` gives a cell with others.
        parameter_init: what parameters begin with, by name: a number, or a function that fills the tensor that it is
            called with, as those of torch.nn.init. Others are drawn as torch.nn draws weights.
        inputs: what the equations are given beside the gates, as names separated by blanks: ``x.a`` is (B, H), of which
            a call gives one number a sample or one a unit, ``layer(x, inputs={"a": a})``. An input is no gate and has
            no weights; what is done to all gates of x leaves it out.
        sizes: states, gates, parameters and inputs with another number of units than a layer's hidden_size, by names of
            such sizes: of ``{"slow": "s b"}`` a layer is told ``sizes={"slow": 40}``. A size meets others by R alone.

    Returns:
        A decorator that makes the Cell.

    Raises:
        TypeError: an argument is of the wrong type, or the signature is not ``(x, R, state, ..., *, parameter, ...)``.
        ValueError: a gate is named twice or is not a name, or has another side than x or R; the input feeds none;
            ``init`` names no state, ``bias`` no gate, ``sizes`` none of these, or another argument no keyword-only
            name; an input is named as a gate is, or twice.
    """
    names = read_gates(gates)
    given = names, init, bias, scalars, constants, parameter_init, inputs, sizes
    return lambda equations: Cell(equations, declare(equations, *given))

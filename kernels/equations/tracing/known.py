"""What is known of a cell's equations at one time: their program, or why there is none, and what that relies on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextvars import copy_context
from functools import partial
from hashlib import sha256
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.equations.program import Program, unused_gates
from gatefuse.kernels.equations.tracing.outside import OutsideError, Reference, references
from gatefuse.kernels.equations.tracing.place import beginning
from gatefuse.kernels.equations.tracing.thread import apart
from gatefuse.kernels.equations.tracing.trace import trace

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell

_TRIES = 3  # of a trace, where another thread changes what the equations use


class Known(NamedTuple):
    """What is known of equations: their traced program, or None where ``refusal`` says why there is none.

    outside: what they use from outside, as it was; empty where that can't be said. closed: whether it can, so that the
    fingerprint stands for all that they compute.
    """

    program: Program | None
    refusal: str
    outside: tuple[Reference, ...]
    closed: bool
    fingerprint: str


def known(cell: Cell) -> Known:
    """Read the equations and trace them, in a state of torch's that is like no caller's."""
    for _ in range(_TRIES):
        try:
            # here, where the caller's variables are
            outside = references(cell.equations)
        except OutsideError as refusal:
            return open_ended(cell, str(refusal))
        found = apart(partial(copy_context().run, _traced, cell, outside))
        if not found.closed or all(r.holds() for r in outside):
            if found.program is not None and (unused := unused_gates(found.program)):
                warnings.warn(
                    f"each gate of {cell.name} should be used, as x.{unused[0]} or R.{unused[0]}(v). Got "
                    f"{', '.join(unused)} in no new state, so that rows of the weights do nothing"
                    f"{beginning(cell.equations)}.",
                    stacklevel=2,
                )
            return found
    changed = next((r.text for r in outside if not r.holds()), "a value")
    return open_ended(cell, f"use {changed} from outside, which changes all the time")


def open_ended(cell: Cell, why: str) -> Known:
    """What is known of equations whose results nobody can foresee; no fingerprint is theirs but by this process."""
    return Known(
        None, f"the equations of {cell.name} {why}{beginning(cell.equations)}", (), False, f"open-{cell.serial}"
    )


def _traced(cell: Cell, outside: tuple[Reference, ...]) -> Known:
    """What is known by a trace."""
    form = cell.declaration.text

    def still() -> None:
        if other := [r.text for r in outside if not r.holds()]:
            raise _ChangedError(other[0])

    try:
        with torch.enable_grad():
            still()
    except _ChangedError as name:
        return open_ended(cell, f"use {name} from outside, which isn't the same in every thread and grad mode")
    try:
        program = trace(cell, still)
    except _ChangedError as name:
        return open_ended(cell, f"change {name}, which is outside of them")
    except (TranslationError, RecursionError) as error:
        if isinstance(error, RecursionError):
            error = TranslationError(
                "equations must be shorter to be made into code: of some hundreds of operations, each on the one before"
            )
        text = "\n".join([form, *_code(cell.equations, outside)])
        return Known(None, str(error), outside, True, _digest(text))
    return Known(program, "", outside, True, _digest(f"{form}\n{program.text()}"))


class _ChangedError(Exception):
    """What lies outside of the equations is another than it was; the text names it."""


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _code(equations: Any, outside: tuple[Reference, ...]) -> Iterator[str]:
    """The code of the equations and of the functions that they call, and the numbers that they use."""
    yield from _lines(equations.__code__)
    for r in outside:
        yield r.text
        yield from _written(r.form)


def _written(form: Any) -> Iterator[str]:
    """A form as text that is the same in every process."""
    if isinstance(form, (tuple, frozenset)):
        for each in sorted(form, key=repr) if isinstance(form, frozenset) else form:
            yield from _written(each)
    elif isinstance(form, CodeType):
        yield from _lines(form)
    else:
        yield getattr(form, "__qualname__", "") or repr(form)


def _lines(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines(constant)
        else:
            yield repr(constant)

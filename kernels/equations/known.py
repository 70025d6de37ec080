"""What is known of a cell's equations at one time: their program, or why there is none, and what that relies on."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, NamedTuple

from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.equations.outside import OutsideError, Reference, references
from gatefuse.kernels.equations.program import Program
from gatefuse.kernels.equations.thread import apart
from gatefuse.kernels.equations.trace import trace

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell


class Known(NamedTuple):
    """program: the traced equations, None where ``refusal`` says why there are none.

    outside: what they use from outside, as it was; empty where that can't be said. closed: whether it can, so that the
    fingerprint stands for all that they compute.
    """

    program: Program | None
    refusal: str
    outside: tuple[Reference, ...]
    closed: bool
    fingerprint: str


def known(cell: Cell) -> Known:
    """Read and trace the equations, in a state of torch's that is like no caller's."""
    return apart(lambda: _known(cell))


def open_ended(cell: Cell, why: str) -> Known:
    """What is known of equations whose results nobody can foresee; no fingerprint is theirs but by this process."""
    return Known(None, f"the equations of {cell.name} {why}", (), False, f"open-{cell.serial}")


def _known(cell: Cell) -> Known:
    try:
        outside = references(cell.equations)
    except OutsideError as refusal:
        return open_ended(cell, str(refusal))
    form = repr((cell.gates, cell.states, cell.parameters, cell.init))
    try:
        program = trace(cell)
    except TranslationError as error:
        text = "\n".join([form, *_code(cell.equations, outside)])
        found = Known(None, str(error), outside, True, _digest(text))
    else:
        found = Known(program, "", outside, True, _digest(f"{form}\n{program.text()}"))
    if changed := [r.text for r in outside if not r.holds()]:
        return open_ended(cell, f"change {changed[0]}, which is outside of them")
    return found


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def _code(equations: object, outside: tuple[Reference, ...]) -> Iterator[str]:
    """The code of the equations and of the functions that they call, and the numbers that they use."""
    for function in (equations, *(r.found for r in outside)):
        if isinstance(function, FunctionType):
            yield from _lines(function.__code__)
    for r in outside:
        yield f"{r.text} {'' if callable(r.found) else r.form}"


def _lines(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _lines(constant)
        else:
            yield repr(constant)

"""Where equations are written: the file and the line that messages name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import unwrap
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell


def run_equations(cell: Cell, x: Any, R: Any, states: Sequence[Any], parameters: Mapping[str, Any]) -> Any:
    """What a cell's equations return; their lines are those of the frames that this one calls."""
    if cell.given is not None:
        x, R, parameters = cell.given(x, R, parameters)
    return cell.equations(x, R, *states, **parameters, **cell.constants)


def running() -> str:
    """The line of the equations that is being run, as " (file, line 3)"; "" outside of them."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _calls_equations(frame):
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return "" if frame is None else _written(frames)


def raised(error: BaseException) -> str:
    """The line of the equations that an error came from, in running's form."""
    frames: list[tuple[FrameType, int]] = []
    within = False
    for frame, line in _passed(error.__traceback__):
        if within:
            frames.insert(0, (frame, line))
        within = within or _calls_equations(frame)
    return _written(frames)


def beginning(equations: Callable[..., Any]) -> str:
    """The line where a function begins, in running's form."""
    code = getattr(unwrap(equations), "__code__", None)
    return "" if code is None else f" ({code.co_filename}, line {code.co_firstlineno})"


def _passed(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _calls_equations(frame: FrameType) -> bool:
    return frame.f_code is run_equations.__code__


def _written(frames: Iterable[tuple[FrameType, int]]) -> str:
    """The innermost line that a person wrote for a cell: none of torch's, and of gatefuse's only a shipped cell's."""
    for frame, line in frames:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in ("torch", "gatefuse") or name.startswith("gatefuse.kernels.cells."):
            return f" ({frame.f_code.co_filename}, line {line})"
    return ""

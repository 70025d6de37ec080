"""What a cell's equations use from outside of themselves: names of their module and of the functions around them.

A trace is made once and kept. It stays true as long as what the equations reach is what it was: functions that torch
records, functions of the same kind as the equations, and numbers. Each is looked up again before the trace is used
(``Reference.holds``). What can change unseen, a tensor, an object, a generator of random numbers, is refused in words.

This reads the functions' code and runs nothing of it.
"""

from __future__ import annotations

import builtins
import dis
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch

from gatefuse.kernels.equations.tracing.forms import (
    CHANGING,
    CONTAINERS,
    OutsideError,
    form_of,
    is_followed,
    is_known,
)

# Methods that leave a container as it is.
_READS = frozenset(("get", "items", "keys", "values", "index", "count", "copy"))
# Methods that change one, by whatever name it goes.
_CHANGES = frozenset(
    (
        *("append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort", "update", "setdefault"),
        *("popitem", "add", "discard"),
    )
)
_WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR")
_ITEMS = ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE")
_MANY = 100  # functions that one cell's equations may reach


class Reference(NamedTuple):
    """A name, where it is looked up, and what was found there."""

    space: Mapping[str, Any]
    name: str
    path: tuple[str, ...]
    found: Any
    form: Any

    @property
    def text(self) -> str:
        """As the equations write it."""
        return ".".join((self.name, *self.path))

    @property
    def at_once(self) -> tuple[dict[str, Any], str, Any]:
        """A dict, a name and a value: where the dict has that very value by the name, the reference holds. Of most, a
        module's globals; of those that a look-up can't answer, an empty one."""
        if type(self.space) is not dict or self.path or self.found is None or isinstance(self.found, CHANGING):
            return {}, "", self
        return self.space, self.name, self.found

    def holds(self) -> bool:
        """Whether the same is found there now."""
        try:
            value = _look_up(self.space, self.name, self.path)
            return (value is self.found and not isinstance(value, CHANGING)) or form_of(value) == self.form
        except Exception:  # of a property, for one
            return False


class _Cells(Mapping):
    """The variables of the functions around a function, by name."""

    def __init__(self, function: FunctionType):
        self.cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))

    def __getitem__(self, name: str) -> Any:
        return self.cells[name].cell_contents

    def __iter__(self) -> Iterator[str]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)


def references(function: Callable[..., Any]) -> tuple[Reference, ...]:
    """All that a function and the functions it calls use from outside.

    Raises:
        OutsideError: that may change unseen, or the function can't be read.
    """
    if not isinstance(function, FunctionType):
        raise OutsideError(f"are a {type(function).__name__}, not a function")
    found: dict[tuple[int, str, tuple[str, ...]], Reference] = {}
    seen: set[FunctionType] = set()
    waiting = [function]
    stores = False
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        if len(seen) > _MANY:
            raise OutsideError(f"call more than {_MANY} functions")
        steps = [step for code in _codes(each.__code__) for step in dis.get_instructions(code)]
        named = Counter([step.argval for step in steps if isinstance(step.argval, str) and step.argval in _CHANGES])
        stores |= any(step.opname in _ITEMS for step in steps)
        cells = _Cells(each)
        for name, path in _names(each):
            space = cells if name in cells else each.__globals__
            key = id(each) if name in cells else id(space), name, path
            if key not in found:
                found[key] = _reference(space, name, path)
                waiting += _functions(found[key].found)
            method = (name, *path)[-1]
            if method in named and getattr(torch, method, None) is found[key].found:  # torch.add
                named[method] -= 1
        stores |= any(count > 0 for count in named.values())
    for reference in found.values():
        if stores and isinstance(reference.found, (list, dict, set)):
            raise OutsideError(f"use {reference.name} from outside, whose items they may change")
    return tuple(found.values())


def _names(function: FunctionType) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each name from outside that the code loads, with the attributes that are then asked of it."""
    outer = set(function.__code__.co_freevars)
    for code in _codes(function.__code__):
        steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
        for k, step in enumerate(steps):
            if step.opname in _WRITES or (step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in outer):
                raise OutsideError(f"change {step.argval}, which is outside of them")
            if step.opname in ("IMPORT_NAME", "LOAD_BUILD_CLASS"):
                raise OutsideError("import a module or define a class; do so outside of them")
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") or ("DEREF" in step.opname and step.argval in outer):
                path = []
                for later in steps[k + 1 :]:
                    if later.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                        break
                    path.append(later.argval)
                yield step.argval, tuple(path)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _reference(space: Mapping[str, Any], name: str, path: tuple[str, ...]) -> Reference:
    """Of a path, as much as leads to something known: what follows is asked of that."""
    text, used = name, 0
    try:
        value = _look_up(space, name, ())
        while used < len(path) and not is_known(value):
            text, used = f"{text}.{path[used]}", used + 1
            value = getattr(value, path[used - 1])
        if isinstance(value, (list, dict, set)) and used < len(path) and path[used] not in _READS:
            raise OutsideError(f"whose {path[used]} may change it")
        return Reference(space, name, path[:used], value, form_of(value))
    except OutsideError as refusal:
        raise OutsideError(f"use {text} from outside, {refusal}") from None
    except RecursionError:
        raise OutsideError(f"use {text} from outside, which holds itself") from None
    except (AttributeError, LookupError, ValueError):
        raise OutsideError(f"use {text} from outside, which is not there") from None
    except Exception as error:
        raise OutsideError(f"use {text} from outside, which gives {type(error).__name__}") from None


def _look_up(space: Mapping[str, Any], name: str, path: tuple[str, ...]) -> Any:
    value = space[name] if name in space else vars(builtins)[name]
    for each in path:
        value = getattr(value, each)
    return value


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions that must be read too, wherever they are held."""
    if type(value) in CONTAINERS:
        for each in [*value, *value.values()] if type(value) is dict else value:
            yield from _functions(each)
    elif isinstance(value, partial):
        for each in (value.func, value.args, value.keywords):
            yield from _functions(each)
    elif isinstance(value, FunctionType) and is_followed(value):
        yield value
        yield from _functions(value.__defaults__ or ())
        yield from _functions(value.__kwdefaults__ or {})

"""What a cell's equations use from outside of themselves: names of their module and of the functions around them.

A trace is made once and kept. It stays true as long as what the equations reach is what it was: functions that torch
records, functions of the same kind as the equations, and numbers. Each is looked up again before the trace is used
(``Reference.holds``). What can change unseen, a tensor, an object, a generator of random numbers, is refused in words.

This reads the functions' code and runs nothing of it.
"""

from __future__ import annotations

import builtins
import dis
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cache, partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_BUILTINS = frozenset(
    (
        *("abs", "all", "any", "bool", "dict", "divmod", "enumerate", "filter", "float", "frozenset"),
        *("int", "isinstance", "len", "list", "map", "max", "min", "pow", "range", "reversed", "round"),
        *("set", "slice", "sorted", "str", "sum", "tuple", "zip"),
    )
)
# Of torch, what a trace sees though it takes no tensor, and what answers the same for ever.
_OF_TORCH = frozenset(
    (
        *("tensor", "as_tensor", "scalar_tensor", "zeros", "ones", "full", "no_grad", "enable_grad"),
        *("finfo", "iinfo", "is_tensor", "is_floating_point", "Tensor", "Size"),
    )
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


class OutsideError(Exception):
    """Equations use what may change unseen; the text says what."""


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

    def holds(self) -> bool:
        """Whether the same is found there now."""
        try:
            value = _look_up(self.space, self.name, self.path)
            return (value is self.found and not isinstance(value, _CHANGING)) or _form(value) == self.form
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
        stores |= any(step.opname in _ITEMS or step.argval in _CHANGES for step in steps)
        cells = _Cells(each)
        for name, path in _names(each):
            space = cells if name in cells else each.__globals__
            key = id(each) if name in cells else id(space), name, path
            if key not in found:
                found[key] = _reference(space, name, path)
                waiting += _functions(found[key].found)
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
        while used < len(path) and not _known(value):
            text, used = f"{text}.{path[used]}", used + 1
            value = getattr(value, path[used - 1])
        if isinstance(value, (list, dict, set)) and used < len(path) and path[used] not in _READS:
            raise OutsideError(f"whose {path[used]} may change it")
        return Reference(space, name, path[:used], value, _form(value))
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


# The very types: what is derived of one may run code of its own when it is asked.
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, range)
_CONTAINERS = (tuple, list, dict, set, frozenset)
_LARGEST = 64  # items of a container, which are compared at each call
_CHANGING = (tuple, list, dict, set, nn.Module, FunctionType, partial)


def _known(value: Any) -> bool:
    """Whether attributes of it are for the trace to see: those of what is no container of names."""
    return type(value) in (*_NUMBERS, *_CONTAINERS) or isinstance(value, Tensor)


def _form(value: Any) -> Any:
    """What of a value the equations' results depend on, to be compared.

    Raises:
        OutsideError: nobody can say; the text ends a sentence about it.
    """
    kind = type(value)
    if kind is float:
        return value.hex()  # nan is nan, and -0.0 is not 0.0
    if kind in _NUMBERS:
        return kind, value
    if kind in _CONTAINERS:
        if len(value) > _LARGEST:
            raise OutsideError(f"which holds more than {_LARGEST} items")
        items = value.items() if kind is dict else value
        forms = [_form(each) for each in items]
        return kind, frozenset(forms) if kind in (set, frozenset) else tuple(forms)
    if isinstance(value, Tensor):
        raise OutsideError("a tensor, whose values may change; give a number, or a keyword-only parameter to learn")
    if isinstance(value, Enum) and not _own_code(kind):
        return kind, value.name
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == () and isinstance(value, (int, float)):
        return kind, repr(value)
    if isinstance(value, nn.Module):
        return _activation(value)
    if kind is partial:
        return _form(value.func), _form(value.args), _form(value.keywords)
    if kind is FunctionType:
        if not _recorded(value) and not _is_torchs(value):
            return value, value.__code__, _form(value.__defaults__), _form(value.__kwdefaults__)
        return value
    if isinstance(value, ModuleType):
        raise OutsideError("a module as a value, of which anything may be asked")
    if _is_constant(value) or _recorded(value):
        return value
    if callable(value):
        raise OutsideError("which is no function that a trace can follow")
    raise OutsideError(f"{_article(kind.__name__)}, which may change unseen")


def _own_code(kind: type) -> bool:
    """Whether an enumeration's members answer by code of their own."""
    own = [vars(each) for each in kind.__mro__ if each.__module__ not in ("enum", "builtins")]
    return any(isinstance(v, (property, FunctionType)) for names in own for v in names.values())


def _activation(module: nn.Module) -> Any:
    """An activation without weights, such as nn.Tanh(), by its settings."""
    hooked = any(value for name, value in vars(module).items() if name.startswith("_") and isinstance(value, dict))
    hooked = hooked or any(callable(value) for value in vars(module).values())
    if type(module).__module__ != "torch.nn.modules.activation" or hooked:
        raise OutsideError(
            "a module, whose weights and settings may change; give a function, or keyword-only parameters"
        )
    return type(module), tuple([(name, _form(v)) for name, v in vars(module).items() if not name.startswith("_")])


def _functions(value: Any) -> Iterator[FunctionType]:
    """The functions that must be read too, wherever they are held."""
    if type(value) in _CONTAINERS:
        for each in [*value, *value.values()] if type(value) is dict else value:
            yield from _functions(each)
    elif isinstance(value, partial):
        for each in (value.func, value.args, value.keywords):
            yield from _functions(each)
    elif isinstance(value, FunctionType) and not _recorded(value) and not _is_torchs(value):
        yield value
        yield from _functions(value.__defaults__ or ())
        yield from _functions(value.__kwdefaults__ or {})


def _is_constant(value: Any) -> bool:
    """A function that gives the same for the same, or a type."""
    name = getattr(value, "__name__", "")
    if getattr(builtins, name, None) is value:
        return name in _BUILTINS
    if isinstance(value, (BuiltinFunctionType, type)) and getattr(value, "__module__", "") in ("math", "_operator"):
        return True
    return name in _OF_TORCH and getattr(torch, name, None) is value


@cache
def _overridable() -> frozenset[Any]:
    from torch.overrides import get_testing_overrides

    return frozenset(get_testing_overrides())


def _recorded(value: Any) -> bool:
    """A function of torch that a trace sees."""
    return callable(value) and not isinstance(value, type) and _hashable(value) and value in _overridable()


def _is_torchs(value: FunctionType) -> bool:
    """A function of torch.nn.functional made of such."""
    return value.__globals__ is vars(nn.functional)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"

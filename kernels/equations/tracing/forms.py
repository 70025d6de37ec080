"""The form of a value from outside: the part of it that the results of equations depend on, as something to compare."""

from __future__ import annotations

import builtins
from enum import Enum
from functools import cache, partial
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gatefuse.kernels.equations import normalization

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


class OutsideError(Exception):
    """Equations use what may change unseen; the text says what."""


# The very types: what is derived of one may run code of its own when it is asked.
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, range)
CONTAINERS = (tuple, list, dict, set, frozenset)
_LARGEST = 64  # items of a container, which are compared at each call
CHANGING = (tuple, list, dict, set, nn.Module, FunctionType, partial)


def is_known(value: Any) -> bool:
    """Whether attributes of it are for the trace to see: those of what is no container of names."""
    return type(value) in (*_NUMBERS, *CONTAINERS) or isinstance(value, Tensor)


def form_of(value: Any) -> Any:
    """The form of a value: what of it the equations' results depend on, to be compared.

    Raises:
        OutsideError: nobody can say; the text ends a sentence about it.
    """
    kind = type(value)
    if kind is float:
        return value.hex()  # nan is nan, and -0.0 is not 0.0
    if kind in _NUMBERS:
        return kind, value
    if kind in CONTAINERS:
        if len(value) > _LARGEST:
            raise OutsideError(f"which holds more than {_LARGEST} items")
        items = value.items() if kind is dict else value
        forms = [form_of(each) for each in items]
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
        return form_of(value.func), form_of(value.args), form_of(value.keywords)
    if kind is FunctionType:
        if is_followed(value):
            return value, value.__code__, form_of(value.__defaults__), form_of(value.__kwdefaults__)
        return value
    if isinstance(value, ModuleType):
        raise OutsideError("a module as a value, of which anything may be asked")
    if _is_constant(value) or is_recorded(value):
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
    return type(module), tuple([(name, form_of(v)) for name, v in vars(module).items() if not name.startswith("_")])


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


def is_recorded(value: Any) -> bool:
    """A function of torch that a trace sees."""
    return callable(value) and not isinstance(value, type) and _hashable(value) and value in _overridable()


def is_followed(value: FunctionType) -> bool:
    """A function whose code may change: not one that a trace sees, nor one made of such by torch or by gatefuse."""
    return not is_recorded(value) and not any(value.__globals__ is vars(of) for of in (nn.functional, normalization))


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"

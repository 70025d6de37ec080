"""Questions that Python code asks of tensors while its equations are traced, as torch's functions see them.

An operator's record holds what was computed, not what was asked: a size, a dtype, a value that decides a branch, a
stop of the gradient. Here each question is seen, and is refused where the answer would be the example's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gatefuse.kernels.equations.gates import by_gate, has_gates
from gatefuse.kernels.equations.operators import REDUCTIONS, TranslationError
from gatefuse.kernels.equations.tracing.place import running
from gatefuse.kernels.equations.tracing.reductions import reduced

if TYPE_CHECKING:
    from gatefuse.kernels.equations.tracing.record import Record

# What is the same of all that equations compute with.
_SAME = frozenset(("is_floating_point", "is_complex"))
_SIZES = frozenset(
    (
        *("dim", "ndim", "ndimension", "shape", "size", "__len__", "numel", "nelement", "nbytes", "stride"),
        *("is_contiguous", "storage_offset", "itemsize"),
    )
)
_VALUES = frozenset(
    (
        *("__bool__", "__float__", "__int__", "__index__", "__contains__", "item", "tolist", "numpy"),
        *("equal", "allclose", "is_nonzero"),
    )
)
_CONVERSIONS = frozenset(("to", "type", "type_as", "float", "double", "half", "bfloat16"))
_MOVES = frozenset(("cpu", "cuda", "xpu"))
_STOPS = frozenset(("detach", "data"))


class Watch(TorchFunctionMode):
    """A mode that refuses questions which a trace can't answer.

    Args:
        name: of the cell, for messages.
        record: is told what the equations call, and where gradients end.
        cut: gives the mean or the largest of a vector's units, at which the trace is cut.
        shares: one part of as many as there are units, by the shape of what has them.

    Attributes:
        asked_dtype: the dtype was asked for, or values were converted; the trace is good if that made no difference.
        refused: for the first question that was.
    """

    def __init__(self, name: str, record: Record, cut: Callable[[str, Tensor], Tensor], shares: Mapping[Any, Tensor]):
        super().__init__()
        self.asked_dtype = False
        self.refused: TranslationError | None = None
        self._name, self._record = name, record
        self._cut, self._shares = cut, shares

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if has_gates(args, kwargs):
            with self:  # each gate's call is looked at
                return by_gate(func, args, kwargs)
        name = func.__name__
        if name == "__get__":
            name = func.__self__.__name__
        if name == "_set_grad_enabled":
            return func(*args, **kwargs)
        if name in ("__set__", "__setitem__") or (name.endswith("_") and not name.endswith("__")):
            raise self._refuse(f"must change no tensor in place. Got {name}")
        if name in _VALUES:
            raise self._refuse(
                "must run the same operators whatever the values are: no if, while or .item() on a tensor; use "
                "torch.where. Got data-dependent control flow"
            )
        if name in _MOVES:
            raise self._refuse(f"must stay on the states' device. Got {name}")
        if name in _SIZES:
            # the equations go on: what they do with it may be the better reason
            self._refuse(
                f"must not ask for a size, which a trace would keep; give a number from outside. Got {name.strip('_')}"
            )
            return func(*args, **kwargs)
        self._record.written = name.strip("_")
        found = self._reduced(name, args, kwargs) if name in REDUCTIONS else func(*args, **kwargs)
        self._record.written = ""
        if name == "dtype" or name in _CONVERSIONS:
            self.asked_dtype = True
            if not isinstance(found, Tensor):
                return found
        results = found if isinstance(found, (tuple, list)) else [found]
        if not all(isinstance(result, Tensor) for result in results):
            if name in _SAME:
                return found
            raise self._refuse(f"must not depend on what a trace can't see. Got {name.strip('_')} of a tensor")
        if name in _STOPS or not torch.is_grad_enabled():
            for result in results:
                self._record.stop(result)
        return found

    def _reduced(self, name: str, args: Any, kwargs: Any) -> Tensor:
        first = next(iter(self._shares.values()))
        vector = args[0] if args else kwargs.get("input", first)
        share = self._shares.get(tuple(vector.shape), first)
        try:
            return reduced(name, args, kwargs, self._cut, share)
        except TranslationError as error:
            # the equations go on, as after an operator that can't be translated
            refused = self._refuse(str(error))
            self._record.refused = self._record.refused or refused
            return self._record.unknown(share)

    def _refuse(self, why: str) -> TranslationError:
        """Kept too, since equations may catch what is raised in them."""
        error = TranslationError(f"the equations of {self._name} {why}{running()}")
        self.refused = self.refused or error
        return error

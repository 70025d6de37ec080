"""A record of the expression of each tensor that operators yield, made below autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gatefuse.kernels.equations.expression import CONSTANT, Expr, Graph
from gatefuse.kernels.equations.operators import TRUTHS, TranslationError, translate
from gatefuse.kernels.equations.tracing.examples import SHAPE, met, shapes
from gatefuse.kernels.equations.tracing.place import running

if TYPE_CHECKING:
    from gatefuse.kernels.cell import Cell

_PLUMBING = ("pin_memory", "layout", "device", "memory_format", "non_blocking")
# Operators that make tensors of numbers; what they make is one.
_NUMBERS = frozenset(("lift_fresh", "zeros", "ones", "full", "scalar_tensor", "new_zeros", "new_ones", "new_full"))


class Record(TorchDispatchMode):
    """A mode that records the expression of each tensor that operators yield."""

    def __init__(self, cell: Cell, graph: Graph, dtype: torch.dtype):
        super().__init__()
        self._cell, self._graph, self._dtype = cell, graph, dtype
        self._shapes = shapes(cell)
        self._known: dict[int, Expr] = {}
        self._stored: dict[tuple[Any, ...], Expr] = {}
        self._alive: list[Tensor] = []  # so that no other has its identity
        self.in_equations = True
        self.paused = False  # while values are made that are none of the equations'
        self.computed_numbers = False
        self.written = ""  # the function of torch's that the equations call now
        self.refused: TranslationError | None = None  # for the first operator that can't be translated

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch's compiler would be imported to keep out of here, where it never comes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if len(self._shapes) > 1 and self.in_equations and not self.paused:
            self._check_sizes(func, args, kwargs)
        found = func(*args, **kwargs)
        if self.paused:
            return found
        name = func._schema.name.removeprefix("aten::")
        results = [t for t in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(t, Tensor)]
        try:
            self._record(func, name, args, kwargs, results)
        except TranslationError as error:
            # The equations go on: what they do next may be the better reason.
            self.refused = self.refused or TranslationError(f"{error}{running()}")
            for result in results:
                self._note(result, self._graph.input("?"))
        return found

    def unknown(self, like: Tensor) -> Tensor:
        """A value of that shape, of which no expression is known."""
        self.paused = True
        try:
            return self.input("?", like.clone())
        finally:
            self.paused = False

    def _record(self, func: Any, name: str, args: Any, kwargs: Any, results: list[Tensor]) -> None:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if self.in_equations and func._schema.is_mutable:
            raise TranslationError(f"the equations of {self._cell.name} must change no tensor in place. Got {name}")
        if name in _NUMBERS or (tensors and all(self._is_number(t) for t in tensors)):
            # computed once for all, as torch rounds it
            expressions = [self._number(result) for result in results]
            # of the states' dtype, in which others are rounded otherwise
            self.computed_numbers |= name not in _NUMBERS and any(t.numel() > 1 for t in results)
        else:
            given = tuple([self._argument(a) for a in args])
            named = {k: self._argument(v) for k, v in kwargs.items() if k not in _PLUMBING}
            made = translate(self._graph, name, given, named, self.written)
            expressions = list(made) if isinstance(made, tuple) else [made]
        for result, expression in zip(results, expressions, strict=False):
            self._check(self.written or name, result, expression)
            self._note(result, expression)

    def _check_sizes(self, func: Any, args: Any, kwargs: Any) -> None:
        """Raised where the equations can't go on, as no value has the size of both."""
        values = [v for a in (*args, *kwargs.values()) for v in (a if isinstance(a, (tuple, list)) else [a])]
        sizes = met(self._cell, [v for v in values if isinstance(v, Tensor)])
        if len(sizes) > 1:
            name = self.written or func._schema.name.removeprefix("aten::")
            self.refused = self.refused or TranslationError(
                f"values of different sizes must meet by R alone. "
                f"Got {' and '.join(sizes)} in {name} of {self._cell.name}{running()}"
            )
            raise self.refused

    def input(self, name: str, tensor: Tensor) -> Tensor:
        """Give a tensor the name of an input."""
        self._note(tensor, self._graph.input(name))
        return tensor

    def share(self, tensor: Tensor) -> Tensor:
        """Have a tensor stand for one part of as many as there are units."""
        self._note(tensor, self._graph.share())
        return tensor

    def stop(self, tensor: Tensor) -> None:
        """No gradient goes beyond a tensor, which is the value of an expression."""
        if tensor.dtype != torch.bool:
            self._note(tensor, self._graph.make("stop", self.of(tensor)), shared=False)

    def of(self, tensor: Tensor) -> Expr:
        """A tensor's expression; a view of all of another's, such as what autograd keeps, has the other's."""
        found = self._found(tensor)
        if found is None:
            raise TranslationError(
                f"the equations of {self._cell.name} must use no tensor from outside but as a keyword-only parameter. "
                f"Got one of shape {tuple(tensor.shape)}"
            )
        return found

    def _found(self, tensor: Tensor) -> Expr | None:
        found = self._known.get(id(tensor))
        return self._stored.get(_place(tensor)) if found is None else found

    def _note(self, tensor: Tensor, expression: Expr, shared: bool = True) -> None:
        self._known[id(tensor)] = expression
        if shared:
            self._stored[_place(tensor)] = expression
        self._alive.append(tensor)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.of(value)
        return [self._argument(each) for each in value] if isinstance(value, (tuple, list)) else value

    def _is_number(self, tensor: Tensor) -> bool:
        found = self._found(tensor)
        return found is not None and found.op == CONSTANT

    def _number(self, tensor: Tensor) -> Expr:
        numbers = {repr(number) for number in tensor.flatten().tolist()}
        if len(numbers) != 1:
            raise TranslationError(
                f"a tensor that the equations of {self._cell.name} make must be a single number; weights belong into "
                f"keyword-only parameters. Got shape {tuple(tensor.shape)}"
            )
        return self._graph.constant(tensor.flatten()[0].item())

    def _check(self, name: str, result: Tensor, expression: Expr) -> None:
        if expression.op == CONSTANT and result.numel() == 1:
            return
        truth = expression.op in TRUTHS or isinstance(expression.number, bool)
        if result.dtype != (torch.bool if truth else self._dtype) and not self._is_exact(result, expression):
            raise TranslationError(
                f"values in a cell must be of the states' dtype, or the truth of a comparison. "
                f"Got {result.dtype} by {name}"
            )
        if tuple(result.shape) not in self._shapes:
            raise TranslationError(
                f"values in a cell must have a state's shape {SHAPE}. Got {tuple(result.shape)} by {name}"
            )

    def _is_exact(self, result: Tensor, expression: Expr) -> bool:
        """Whether a value of another dtype is what one of the states' is: a choice of numbers, or rounded less."""
        if result.dtype == torch.float32:
            of_numbers = expression.op == "where" and all(a.op == CONSTANT for a in expression.args[1:])
            return of_numbers or self._dtype in (torch.float16, torch.bfloat16)
        return False


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()

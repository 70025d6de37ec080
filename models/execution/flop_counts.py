"""FLOP counts of gatefuse's operators for torch.utils.flop_counter, which knows no more of them than their names.

As for torch's own operators, that is 2 for each multiplication of a product, and nothing for what is done element by
element. A backward has two products for each one of the forward. Padding is counted, as it is computed with.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.loops import operator as ops  # noqa: F401  (defines operators, as does layer_ops)
from gatefuse.kernels.work import input_products, recurrent_products
from gatefuse.models.execution import operators as layer_ops  # noqa: F401

_COUNTER = "torch.utils.flop_counter"
Shape = Sequence[int]


def offer() -> None:
    """Give torch's counter the counts, at once where it is loaded, else when it is: it brings Triton with it."""
    if _COUNTER in sys.modules:
        _register(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Finds nothing itself, but has what the others find say when the counter is loaded."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != _COUNTER or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register(counter: Any) -> None:
    operators = torch.ops.gatefuse
    formulas = {
        operators.sequence_forward: _sequence,
        operators.sequence_backward: _sequence_backward,
        operators.layers: _layers,
        operators.layers_kept: _layers,
        operators.layers_in_training: _layers,
        operators.layers_gradients: _layers_gradients,
    }
    for operator, formula in formulas.items():
        counter.register_flop_formula(operator)(formula)


def _sequence(x: Shape, states: Shape, weight: Shape, *rest: Any, **_: Any) -> int:
    """The recurrent products alone where x holds the input's, else both."""
    cell, input_weight = Cell.named(rest[5]), next(iter(rest[10:]), None)
    return sum(_sequence_products(x, states, weight, cell, input_weight))


def _sequence_backward(x: Shape, states: Shape, weight: Shape, *rest: Any, **_: Any) -> int:
    cell, input_weight, _bias, wanted = Cell.named(rest[13]), *(*rest[16:], *(None, None, True)[len(rest[16:]) :])
    ahead, within = _sequence_products(x, states, weight, cell, input_weight)
    return (2 if wanted else 1) * ahead + 2 * within


def _sequence_products(
    x: Shape, states: Shape, weight: Shape, cell: Cell, input_weight: Shape | None
) -> tuple[int, int]:
    """Operations of the input's product, where the operator has it, and of the recurrent ones."""
    samples, H = 2 * x[0] * x[1], weight[1]
    ahead = 0 if input_weight is None else samples * input_products(cell, x[2], H)
    return ahead, samples * states[2] // H * recurrent_products(cell, H)


def _layers(*given: Any, **_: Any) -> int:
    return sum(sum(pair) for pair in _products(given[:6], given[-5:]))


def _layers_gradients(*given: Any, **_: Any) -> int:
    inputs, byte, wanted, options = given[:6], given[6], given[8], given[-5:]
    products = _products(inputs, options)
    total = sum(2 * (ahead + within) for ahead, within in products)
    if not wanted[0]:  # nobody asks for the gradient of the first layer's input
        total -= sum(ahead for ahead, _ in products[: 2 if options[3] else 1])
    # without what the forward kept, it runs once more
    return total + (_layers(*inputs, *options) if byte is None else 0)


def _products(inputs: Sequence[Any], options: Sequence[Any]) -> list[tuple[int, int]]:
    """Operations of each layer's and direction's products, those of the input and the recurrent ones."""
    (T, B, _), weights, cell = inputs[0], inputs[2], Cell.named(options[0])
    each = (4 if options[2] else 2) + len(cell.parameters)
    samples = 2 * T * B
    return [
        (samples * input_products(cell, w_ih[1], w_hh[1]), samples * recurrent_products(cell, w_hh[1]))
        for w_ih, w_hh in zip(weights[::each], weights[1::each], strict=True)
    ]

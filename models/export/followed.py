"""A model that is written as a class, as the modules that its forward runs one after the other."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from gatefuse.models.layers.base import Stack

# torch's functions and tensors' methods that are activations without settings, by name
_FUNCTIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
    "logsigmoid": nn.LogSigmoid,
}
_RECURRENT = (Stack, nn.RNNBase)
_STATES = ("state", "hx")  # names that layers have for them
_T = 5


def followed(where: str, model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that the model's forward runs, each on what the one before gives, and their places.

    The forward takes the input first, and beside it states that go to recurrent layers alone; it returns the last
    module's output, or a tuple of that and of states.

    Raises:
        TypeError: it does anything else, which is named, or what torch.fx can't follow.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # a forward may do anything, and fail by anything where no numbers come
        raise _refusal(where, model, f"can't be followed: {_said(error)}") from error
    walk = _Walk(model, where)
    for node in graph.nodes:
        if node.op == "output":
            if not walk.ends_with(node.args[0]):
                raise _refusal(where, model, f"returns {node.args[0]}")
        elif not walk.takes(node):
            raise _refusal(where, model, f"runs {node.format_node()}")
    return walk.found


def check_followed(where: str, model: nn.Module, modules: list[nn.Module]) -> None:
    """Run the model, and the modules one after the other, on the same steps of one sample.

    Raises:
        TypeError: they give different numbers, or the model can't be run so.
    """
    shape = (1, _T) if any(getattr(m, "batch_first", False) for m in modules) else (_T, 1)
    g = torch.Generator("cpu").manual_seed(0)
    sizes = [size for m in modules for size in (getattr(m, "in_features", 0) or getattr(m, "input_size", 0),) if size]
    if modules and isinstance(modules[0], nn.Embedding):
        x = torch.randint(modules[0].num_embeddings, shape, generator=g, device="cpu")
    else:
        x = torch.randn(*shape, sizes[0] if sizes else 1, generator=g, device="cpu", dtype=torch.float32)
    place = next((p.device for p in model.parameters()), x.device)
    with torch.no_grad(), torch.autocast(place.type, enabled=False):
        try:
            found, expected = _first(model(x.to(place))), x.to(place)
        except Exception as error:  # whatever its forward raises
            raise _refusal(where, model, f"fails: {_said(error)}") from error
        for module in modules:
            expected = _first(module(expected))
    if not isinstance(found, Tensor) or found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-6):
        raise _refusal(where, model, "gives other numbers than these modules do")


def _refusal(where: str, model: nn.Module, why: str) -> TypeError:
    return TypeError(
        f"{where} must run modules one after the other; give a list of those that it shall run, as [model.rnn, "
        f"model.head], where it doesn't. Got {type(model).__name__}, which {why}."
    )


def _said(error: Exception) -> str:
    """An error as the end of a sentence."""
    return f"{type(error).__name__}: {str(error).rstrip('.')}"


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


class _Walk:
    """Along the nodes of a graph.

    Attributes:
        found: the modules on the way.
    """

    def __init__(self, model: nn.Module, where: str):
        self._model, self._where = model, where
        self.found: list[tuple[str, nn.Module]] = []
        self._begun = False
        self._now: fx.Node | None = None  # what the next module must take
        self._pair: fx.Node | None = None  # of the last recurrent layer, output and states
        self._states: set[fx.Node] = set()

    def takes(self, node: fx.Node) -> bool:
        """Whether the node goes on from where the walk is."""
        if node.op == "placeholder":
            if self._begun:
                self._states.add(node)
            else:
                self._begun, self._now = True, node
            return True
        if node.op == "call_function" and node.target is operator.getitem:
            return self._takes_part(node.args[0], node.args[1], node)
        if not node.args or node.args[0] is not self._now:
            return False
        if node.op == "call_module":
            module = self._model.get_submodule(str(node.target))
            self.found.append((f"{self._where}.{node.target}", module))
            if isinstance(module, _RECURRENT):
                given = [*node.args[1:], *node.kwargs.values()]
                self._now, self._pair = None, node
                return set(node.kwargs) <= set(_STATES) and self._states.issuperset(_nodes(given))
            self._now = node
            return len(node.args) == 1 and not node.kwargs
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op not in ("call_function", "call_method") or name not in _FUNCTIONS:
            return False
        self.found.append((f"{self._where}: {name}", _FUNCTIONS[name]()))
        self._now = node
        return len(node.args) == 1 and set(node.kwargs) <= {"inplace"}

    def _takes_part(self, whole: Any, index: Any, node: fx.Node) -> bool:
        if whole is self._pair and index == 0:
            self._now = node
        elif whole is self._pair or whole in self._states:
            self._states.add(node)
        else:
            return False
        return True

    def ends_with(self, value: Any) -> bool:
        """Whether that is what the last module gives, alone or beside states."""
        if value is not None and (value is self._now or (self._now is None and value is self._pair)):
            return True
        if not isinstance(value, (tuple, list)) or not value:
            return False
        return value[0] is not None and value[0] is self._now and self._states.issuperset(_nodes(value[1:]))


def _nodes(value: Any) -> Iterator[fx.Node]:
    """All nodes in tuples and lists of them."""
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _nodes(part)

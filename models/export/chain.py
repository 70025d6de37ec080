"""A model as a chain of operations, each of which takes what the one before gives: what an object can be made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.equations.operators import TranslationError
from gatefuse.kernels.task import Weights
from gatefuse.models.accelerate import PAIRS
from gatefuse.models.export.activations import ACTIVATIONS, activation_cell
from gatefuse.models.export.followed import check_followed, followed
from gatefuse.models.layers.recurrent import Recurrent
from gatefuse.models.layers.rnn import GRU, LSTM, RNN

_OURS: tuple[type[nn.Module], ...] = (Recurrent, LSTM, GRU, RNN)
_THEIRS = {theirs: ours for theirs, ours in PAIRS if ours in _OURS}
_DROPOUTS = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)
# The modules that can be exported, of these very classes.
KNOWN: tuple[type[nn.Module], ...] = (
    *_OURS,
    *_THEIRS,
    *(nn.Linear, nn.Embedding, nn.Identity),
    *_DROPOUTS,
    *ACTIVATIONS,
)


class Lookup(NamedTuple):
    """Rows of a table, (entries, outputs), by number."""

    title: str
    table: Tensor

    @property
    def outputs(self) -> int:
        return int(self.table.shape[1])


class Layer(NamedTuple):
    """A layer of a recurrent cell; or of no states, a plain product and what follows from it.

    Attributes:
        title: as the model's reader knows it.
        weights: float32, on the CPU.
        recurrent: whether its states go on from step to step.
        bare: whether it is a product after which nothing follows yet.
    """

    title: str
    cell: Cell
    weights: Weights
    recurrent: bool = True
    bare: bool = False

    @property
    def inputs(self) -> int:
        """I."""
        return int(self.weights.input.shape[1])

    @property
    def outputs(self) -> int:
        """H."""
        return int(self.weights.input.shape[0]) // len(self.cell.input_gates)


class Pointwise(NamedTuple):
    """An activation of so many features."""

    title: str
    cell: Cell
    outputs: int


Operation: TypeAlias = "Lookup | Layer | Pointwise"


# Whose modules are taken as they are or not at all: their forwards aren't of one's own, to be followed.
_LIBRARIES = "torch.", "gatefuse.models.layers."


def chain(model: Any) -> list[Operation]:
    """The operations of a model, with its weights as they are now.

    Args:
        model: a layer, an nn.Sequential, or a list or tuple of modules, which run one after the other; or a model that
            runs such modules itself (followed.py). Of a recurrent layer the next module takes the output alone.

    Raises:
        TypeError: a module, named in the message, is none that can be exported.
        ValueError: it runs in two directions, has a projection, is in training mode with dropout, or has hooks; the
            dtype is not float32; a weight is not finite; two modules' sizes differ; there is no recurrent layer.
    """
    found: list[Any] = []
    with torch.no_grad():
        for where, module in _modules(model, "model"):
            _check(where, module)
            found += _operations(where, module, found)
    if not any(isinstance(op, Layer) and op.recurrent for op in found):
        raise ValueError("model must hold a recurrent layer. Got none.")
    return _sized(found)


def _modules(model: Any, where: str) -> Iterator[tuple[str, nn.Module]]:
    """Each module and its place in the model, in the order of the run."""
    if isinstance(model, (list, tuple)):
        parts: Sequence[Any] = model
    elif type(model) in (nn.Sequential, nn.ModuleList):
        _check_hooks(where, model)
        parts = list(model)
    elif isinstance(model, nn.Module) and (isinstance(model, KNOWN) or type(model).__module__.startswith(_LIBRARIES)):
        yield where, model
        return
    elif isinstance(model, nn.Module):
        yield from _own(model, where)
        return
    else:
        raise TypeError(f"{where} must be a layer, an nn.Sequential or a list of modules. Got {type(model).__name__}.")
    for k, part in enumerate(parts):
        yield from _modules(part, f"{where}[{k}]")


def _own(model: nn.Module, where: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a class of one's own, which is run beside them once they are known to be of use."""
    _check_hooks(where, model)
    parts = [each for place, part in followed(where, model) for each in _modules(part, place)]
    yield from parts
    check_followed(where, model, [part for _, part in parts])


def _check(where: str, module: nn.Module) -> None:
    kind = type_before_parametrizations(module)
    if kind not in KNOWN:
        names = ", ".join(dict.fromkeys(k.__name__ for k in KNOWN))
        raise TypeError(
            f"{where} must be one of {names}, or of a class of one's own that runs these. Got {kind.__name__}."
        )
    _check_hooks(where, module)
    if getattr(module, "training", False):
        if isinstance(module, Recurrent) and module.draws:
            raise ValueError(
                f"{where} must be in eval mode, as model.eval() sets it, since C draws nothing. Got {kind.__name__} of "
                f"{module.cell.name} in training mode, with weight_dropout {module.weight_dropout}."
            )
        drops = getattr(module, "p", 0.0) if kind in _DROPOUTS else getattr(module, "dropout", 0.0)
        if drops and (kind in _DROPOUTS or getattr(module, "num_layers", 1) > 1):
            raise ValueError(
                f"{where} must be in eval mode, as model.eval() sets it, since it drops out. Got {kind.__name__} in "
                f"training mode with dropout {drops}."
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dtype != torch.float32:
            raise ValueError(f"{where} must have weights of float32, as model.float() makes. Got {tensor.dtype}.")
        if tensor.is_meta:
            raise ValueError(f"{where} must have weights. Got {name} on the device meta.")
        if not tensor.isfinite().all():
            raise ValueError(f"{where} must have finite weights. Got {name} with values that are not.")


def _check_hooks(where: str, module: nn.Module) -> None:
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(
            f"{where} must have no hooks, of which C knows nothing. Got {type(module).__name__} with some."
        )


def _operations(where: str, module: Any, before: list[Any]) -> list[Any]:
    """Those of one module; an activation right after a plain product takes that away, and comes with it."""
    kind = type_before_parametrizations(module)
    if kind in (nn.Identity, *_DROPOUTS):
        return []
    if kind is nn.Embedding:
        if before:
            raise ValueError(f"{where} must be the first, if it is an Embedding. Got one after {before[-1].title}.")
        if module.max_norm is not None:
            raise ValueError(f"{where} must have no max_norm, by which a call changes weights. Got {module.max_norm}.")
        table = _held(module.weight)
        return [Lookup(f"Embedding({table.shape[0]}, {table.shape[1]})", table)]
    if kind is nn.Linear:
        weight, bias = _held(module.weight), None if module.bias is None else _held(module.bias)
        title = f"Linear({weight.shape[1]}, {weight.shape[0]})"
        weights = Weights(weight, weight[:, :0], bias)
        return [Layer(title, activation_cell(None), weights, recurrent=False, bare=True)]
    if kind in ACTIVATIONS:
        try:
            made = activation_cell(module)
        except TranslationError as error:
            raise TypeError(
                f"{where} must be an activation that code can be made of. Got {kind.__name__}: {error}."
            ) from error
        if before and isinstance(before[-1], Layer) and before[-1].bare:
            last = before.pop()
            return [last._replace(title=f"{last.title} then {kind.__name__}", cell=made, bare=False)]
        return [Pointwise(kind.__name__, made, 0)]
    return list(_layers(where, kind, module))


def _layers(where: str, kind: type[nn.Module], module: Any) -> Iterator[Layer]:
    name = kind.__name__
    if module.bidirectional:
        raise ValueError(
            f"{where} must run in one direction: a stream's last step isn't known. Got a bidirectional {name}."
        )
    if getattr(module, "proj_size", 0):
        raise ValueError(f"{where} must have no projection. Got {name} with proj_size {module.proj_size}.")
    cell = _cell_of(_THEIRS.get(kind, kind), module)
    if cell.declaration.sizes:
        sizes = ", ".join([size for size, _ in cell.declaration.sizes])
        raise ValueError(f"{where} must have one size of states and gates. Got {cell.name} with sizes {sizes}.")
    version = cell.current()
    if version.refusal:
        raise TypeError(f"{where} must have a cell that code can be made of. Got {cell.name}: {version.refusal}.")
    if cell.inputs:
        raise TypeError(
            f"{where} must have a cell without inputs beside its gates, for which C has no argument. Got {cell.name} "
            f"with {', '.join(cell.inputs)}."
        )
    if kind is Recurrent:
        made, flat = module._at_once()
        version = made.current()
    else:
        flat = [getattr(module, n) for group in module._all_weights for n in group]
    flat = [_held(w) for w in flat]
    each = len(flat) // module.num_layers
    for k in range(module.num_layers):
        input, recurrent, *rest = flat[k * each : (k + 1) * each]
        biases: list[Any] = rest[:2] if module.bias else [None, None]
        own = tuple(rest[2:] if module.bias else rest)
        weights = Weights(input, recurrent, biases[0], biases[1], own)
        title = f"{cell.name}({input.shape[1]}, {recurrent.shape[1]})"
        yield Layer(title, version, weights)


def _cell_of(ours: Any, module: Any) -> Cell:
    """Of a layer of ours, or of torch.nn's by the class of ours that is its subclass."""
    found: Any = vars(ours).get("cell")
    if found is None:  # a Recurrent's own
        return module.cell
    return found.__get__(module) if isinstance(found, property) else found


def _held(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _sized(found: list[Any]) -> list[Operation]:
    """With the features of activations, which are those before, or of the first ones those after."""
    size = next(op.inputs if isinstance(op, Layer) else op.outputs for op in found if not isinstance(op, Pointwise))
    operations: list[Operation] = []
    for op in found:
        if isinstance(op, Layer) and op.inputs != size:
            raise ValueError(f"{op.title} must take the {size} features that come before it. Got {op.inputs}.")
        if isinstance(op, Pointwise):
            op = op._replace(outputs=size)
        size = op.outputs
        operations.append(op)
    return operations

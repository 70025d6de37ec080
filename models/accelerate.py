"""accelerate and restore: recurrent layers within a model that exists become gatefuse's, and back.

A layer is exchanged by assigning its ``__class__``: the object stays, and with it its parameters (so optimizers go on),
buffers, hooks, parametrizations, training mode, every reference to it from elsewhere, and the root module itself. A new
module in its place would have to be given all of these one by one, could not replace a root, and would miss what
somebody holds outside the model. The price is that the new classes must do with the state of the old ones, which they
do as their subclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from gatefuse.models.layers.arguments import check_driver, path_of
from gatefuse.models.layers.rnn import GRU, LSTM, RNN
from gatefuse.models.layers.rnn_cells import GRUCell, LSTMCell, RNNCell
from gatefuse.models.others import known

PAIRS: tuple[tuple[type[nn.Module], type[nn.Module]], ...] = (
    (nn.LSTM, LSTM),
    (nn.GRU, GRU),
    (nn.RNN, RNN),
    (nn.LSTMCell, LSTMCell),
    (nn.GRUCell, GRUCell),
    (nn.RNNCell, RNNCell),
)
_OURS = dict(PAIRS)
_NAMES = frozenset(theirs.__name__ for theirs in _OURS)
# in the layer's own dictionary, so that copies and pickles of an accelerated layer can be restored too
_MARK = "_accelerated"


@dataclass(frozen=True)
class Exchange:
    """What accelerate or restore did, by the layers' names as in ``named_modules``; ``print`` it.

    Attributes:
        changed: what each changed layer was and is.
        left: why each of the others was left as it was.
    """

    changed: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        found = len(self.changed) + len(self.left)
        if not found:
            return "No recurrent layer was found; of a loop written by hand, gatefuse.cell makes one."
        rows = [*self.changed.items(), *((name, f"left: {why}") for name, why in self.left.items())]
        width = max(len(_title(name)) for name, _ in rows)
        lines = [f"{len(self.changed)} of {found} recurrent layer{'s' if found > 1 else ''} changed."]
        return "\n".join(lines + [f"  {_title(name):{width}}  {text}" for name, text in rows])


def _title(name: str) -> str:
    return name or "the model itself"


def accelerate(model: nn.Module, driver: str = "auto") -> Exchange:
    """Make gatefuse's layers of the torch.nn.LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell in a model, in place.

    So are speechbrain's LiGRU and SLiGRU and xlstm's sLSTM with its backend vanilla, of which the time loop alone is
    exchanged, in float32 and float64, out of autocast, torch.compile and torch.func; elsewhere they run their own.

    The modules and their parameters stay the same objects; the model may be such a layer itself. Results are those of
    before. Layers that can't be changed safely stay untouched; the answer names them, with the reason. A model that was
    compiled sees the change at its next call. torch.jit.script can't read the layers; ``gatefuse.scripted`` scripts a
    copy with layers that it can.

    What looks layers up by their very class finds torch.nn's alone: dynamic quantization, and libraries of gradients by
    sample, as Opacus, whose validator and fixer pass an accelerated nn.LSTM over that they would replace by a layer of
    their own. Restore the model before; what they put in its place is not changed by accelerate.

    Args:
        model: any module.
        driver: the driver of the layers that are changed; see ``gatefuse.Recurrent``.

    Returns:
        Which layers were changed, and which were left and why; ``print`` it.

    Raises:
        TypeError: the model is no module.
        ValueError: neither auto nor a driver's name.
    """
    check_driver(driver)
    pairs = {**_OURS, **known.pairs()}

    def change(module: nn.Module) -> tuple[bool, str] | None:
        others = known.refusal(module, driver)
        if others is None and not _looks_recurrent(module):
            return None
        if why := others or _refusal(module, pairs):
            return False, why
        text = _exchange(module, pairs)
        setattr(module, _MARK, True)
        if driver != "auto":
            module.driver = driver  # type: ignore[assignment]
        return True, text

    return _walk(model, change)


def restore(model: nn.Module) -> Exchange:
    """Undo accelerate: the layers that it changed are what they were again, the same objects as before.

    Layers that were made as gatefuse's stay, and the answer says so.

    Args:
        model: any module.

    Returns:
        Which layers were changed, and which were left and why; ``print`` it.

    Raises:
        TypeError: the model is no module.
    """
    back = {ours: theirs for theirs, ours in (*PAIRS, *known.pairs().items())}

    def change(module: nn.Module) -> tuple[bool, str] | None:
        if not isinstance(module, tuple(back)):
            return None
        if _MARK not in module.__dict__:
            return False, "accelerate did not change it"
        if _exchanged(type(module), back) is type(module):
            return False, f"{path_of(type(module))} was derived from gatefuse's layer since"
        text = _exchange(module, back)
        for name in (_MARK, "driver"):
            module.__dict__.pop(name, None)
        return True, text

    return _walk(model, change)


def _walk(model: nn.Module, change: Callable[[nn.Module], tuple[bool, str] | None]) -> Exchange:
    """Show each module of the model to ``change`` once, which says whether it changed it and what is to be told."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module. Got {type(model).__name__}.")
    modules = list(model.named_modules())  # each once; this also ends where a module contains itself
    paths: dict[nn.Module, list[str]] = {module: [] for _, module in modules}
    for parent, module in modules:
        for key, child in module._modules.items():
            if child is not None:
                paths.setdefault(child, []).append(f"{parent}.{key}" if parent else key)
    answer = Exchange()
    for name, module in modules:
        if (told := change(module)) is not None:
            done, text = told
            others = [path for path in paths[module] if path != name]
            (answer.changed if done else answer.left)[name] = ", also as ".join([text, *others])
    return answer


def _looks_recurrent(module: nn.Module) -> bool:
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return True
    # scripted, quantized and handwritten layers have the name alone; so have wrappers, which are not meant
    script = isinstance(module, torch.jit.ScriptModule)
    name = getattr(module, "original_name", "") if script else type(module).__name__
    return name in _NAMES and not any(isinstance(m, (nn.RNNBase, nn.RNNCellBase)) for m in module.modules())


def _refusal(module: nn.Module, pairs: dict[type[nn.Module], type[nn.Module]]) -> str:
    """Why this layer must stay as it is; "" where it may be changed."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript, whose code is fixed; accelerate a model before it is scripted or traced"
    if isinstance(module, tuple(pairs.values())):
        return "it is gatefuse's already"
    if _exchanged(kind, pairs) is kind:
        if isinstance(module, tuple(_OURS)):
            why = "is a subclass, whose methods may rely on torch.nn's; derive it from gatefuse's instead"
            return f"{path_of(kind)} {why}"
        if isinstance(module, tuple(pairs)):
            return f"{path_of(kind)} is a subclass, whose methods may rely on those that would be exchanged"
        return f"{path_of(kind)} is not one of torch.nn's layers and cells"
    if own := sorted({"forward", "_call_impl"} & module.__dict__.keys()):
        return f"{own[0]} was replaced on this very object, and would go on hiding the class's"
    return ""


def _exchanged(kind: type, pairs: dict[type[nn.Module], type[nn.Module]]) -> type:
    """The counterpart of a class by the pairs, or the class itself where there is none.

    parametrize and fully_shard derive a class for a single module from that module's class. Such a class is derived
    anew, from the counterpart, so that it is what is left when a parametrization is taken off.
    """
    if kind in pairs:
        return pairs[kind]
    if not kind.__module__.startswith(("torch.nn.utils.parametrize", "torch.distributed.")):
        return kind
    bases = tuple(_exchanged(base, pairs) for base in kind.__bases__)
    return kind if bases == kind.__bases__ else type(kind.__name__, bases, dict(kind.__dict__))


def _exchange(module: nn.Module, pairs: dict[type[nn.Module], type[nn.Module]]) -> str:
    """Assign the class, and say what was changed and what came along."""
    before, after = next((old, new) for old, new in pairs.items() if isinstance(module, old))
    module.__class__ = _exchanged(type(module), pairs)
    text = f"{_public(before)} -> {_public(after)}"
    if nn.utils.parametrize.is_parametrized(module):
        text += ", with its parametrizations"
    if any(hooks for name, hooks in module.__dict__.items() if name.endswith("_hooks") and hooks):
        text += ", with its hooks"
    return text


def _public(kind: type) -> str:
    if kind in _OURS:
        return f"torch.nn.{kind.__name__}"
    return f"gatefuse.{kind.__name__}" if kind in _OURS.values() else path_of(kind)

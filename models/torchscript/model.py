"""scripted: a model that contains gatefuse's layers as TorchScript of ATen operators alone.

LSTM, GRU, RNN and the cells become torch.nn's, which TorchScript can read, and layers of other packages what they were.
A Recurrent becomes a class generated for its cell: the loop that kernels/codegen/torchscript.py prints, within
models/torchscript/layer.py. As in accelerate, it is the ``__class__`` of the (copied) layer that is exchanged, so that
parameters, their names, and training mode stay.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from itertools import count, cycle
from typing import Any

import torch
from torch import nn

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen.definitions import defined
from gatefuse.kernels.codegen.per_cell import per_cell
from gatefuse.kernels.drivers import vendor
from gatefuse.models.accelerate import PAIRS
from gatefuse.models.execution.heads import check_cell
from gatefuse.models.execution.sizes import check_vectors
from gatefuse.models.layers.base import Stack
from gatefuse.models.layers.layout import forms
from gatefuse.models.layers.recurrent import Recurrent
from gatefuse.models.layers.spare_units import sources
from gatefuse.models.layers.units import Units
from gatefuse.models.others import known

_THEIRS = {ours: theirs for theirs, ours in PAIRS}
# of a layer's attributes, gatefuse's own, and torch.nn's second lists of the weights, which would be saved once more
_ADDED = ("cell", "driver", "_accelerated", "_names", "_shapes", "_sized", "sizes")
_LISTS = ("_all_weights", "_flat_weights", "_flat_weights_names", "_flat_weight_refs")
_ADDITIONS = re.compile(r"Keyword argument (lengths|resets|reset_state|all_states) unknown")
_numbers = count()


def scripted(model: nn.Module) -> torch.jit.ScriptModule:
    """Script a copy of a model that contains gatefuse's layers; the model itself stays as it is.

    The result holds copies of the parameters under the same names, and ATen operators alone: what ``torch.jit.save``
    writes of it runs where there is no gatefuse, and no Python. torch's own loop runs the cells that torch knows, a
    scripted loop of the equations runs others, and any with lengths or resets.

    A Recurrent takes ``lengths`` (a tensor), ``resets`` and ``reset_state`` in a script too. LSTM, GRU and RNN have the
    arguments of torch.nn's alone, unless one of them is the model itself. ``all_states`` is for neither, nor is
    autocast. Lengths' values aren't checked.

    torch has deprecated TorchScript, and warns here; nothing else in gatefuse needs it.

    Args:
        model: any module that TorchScript can read but for gatefuse's layers; or such a layer.

    Returns:
        The script; its forward takes and gives what the model's does.

    Raises:
        TypeError: the model is no module.
        ValueError: a layer is of a class derived from gatefuse's, as by a parametrization; its cell can't be
            translated; a parameter has another shape than the layer's; it is called with an argument that a script
            has no form for.
        RuntimeError: TorchScript can't read the rest of the model; torch.jit.script has others for that, too.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module. Got {type(model).__name__}.")
    changed = copy.deepcopy(model)
    theirs = {**_THEIRS, **{ours: other for other, ours in known.pairs().items()}}
    for name, layer in list(changed.named_modules()):
        # As the root of a script torch.nn's layers can't be called, since their forward has two forms.
        alone = layer is changed and type(layer) in _THEIRS and isinstance(layer, Stack)
        if type(layer) is Recurrent or alone:
            _become_generated(layer)
        elif type(layer) in theirs:
            layer.__class__ = theirs[type(layer)]
            for own in _ADDED:
                layer.__dict__.pop(own, None)
        elif isinstance(layer, (Recurrent, *theirs)):
            raise ValueError(
                f"a layer must be of gatefuse's very classes to be scripted, not of one derived from them. Got "
                f"{type(layer).__module__}.{type(layer).__qualname__}{f' as {name}' if name else ''}."
            )
    try:
        return torch.jit.script(changed)
    except RuntimeError as error:
        if found := _ADDITIONS.search(str(error)):
            raise ValueError(
                f"in a script a Recurrent takes lengths, resets and reset_state, and LSTM, GRU and RNN none of these; "
                f"all_states has no form there. Got {found[1]}."
            ) from error
        raise


def _become_generated(layer: Any) -> None:
    from gatefuse.kernels.equations.facts import untranslatable  # imports Triton

    cell: Cell = layer.cell
    if getattr(layer, "proj_size", 0):
        raise ValueError("a model must not be a layer with a projection itself; put it into a module. Got one.")
    if why := untranslatable(cell.serial):
        raise ValueError(f"a cell must be translatable to be scripted. Got {cell.name}: {why}.")
    if layer.training and layer.draws:
        raise ValueError(
            f"a layer must be in eval mode to be scripted, since a script draws no noise. Got one of {cell.name} in "
            f"training mode, with weight_dropout {layer.weight_dropout}."
        )
    if layer.heads > 1:
        check_cell(cell)
    if cell.inputs:
        given = ", ".join(cell.inputs)
        raise ValueError(f"a cell must have no inputs beside its gates to be scripted. Got {cell.name} with {given}.")
    layer._flat()  # raises where a parameter has another shape than the layer's
    names = layer._names if isinstance(layer, Recurrent) else [name for group in layer._all_weights for name in group]
    units: Units | None = layer._sized
    sizes: tuple[int, ...] = ()
    if units is None:
        weights = _weights(cell, names, layer.bias, layer.heads)
    else:
        check_vectors(cell, units)
        weights = _weights_of_sizes(cell, names, layer.bias, units)
        sizes = (*[units.of(state) for state in cell.states], units.most)
    form = layer.num_layers, layer.bidirectional, layer.bias, type(layer) is Recurrent, sizes
    kind = _generated(cell, weights, *form)
    state_units = list(layer._state_units or [layer.hidden_size] * len(cell.states))
    for name in _ADDED + _LISTS:
        layer.__dict__.pop(name, None)
    layer.__class__ = kind
    layer.init, layer.state_units = list(cell.init), state_units


def _weights(cell: Cell, names: Sequence[str], bias: bool, heads: int) -> tuple[str, ...]:
    """The weights that parameters of these names stand for, as expressions."""
    found = []
    for name, places in zip(names, cycle(forms(cell, bias, False)), strict=False):
        value, H = f"self.{name}", "self.hidden_size"
        if heads > 1 and name.startswith("weight_hh"):
            value = f"block_diagonal({value}, {heads})"
        if places is not None:
            value = f"for_all_gates({value}, {places}, {H})" if places else f"for_all_units({value}, {H})"
        found.append(value)
    return tuple(found)


def _weights_of_sizes(cell: Cell, names: Sequence[str], bias: bool, units: Units) -> tuple[str, ...]:
    """The same where values have units of their own."""
    of, found = sources(cell, bias, units), []
    each = sum([len(source.parameters) for source in of])
    for first in range(0, len(names), each):
        for parameters, *rest in of:
            given = ", ".join([f"self.{names[first + k]}" for k in parameters])
            found.append(f"full_weight([{given}], {', '.join(map(repr, rest))}, {units.most})")
    return tuple(found)


@per_cell
def _generated(
    cell: Cell,
    weights: tuple[str, ...],
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    recurrent: bool,
    sizes: tuple[int, ...],
) -> type[nn.Module]:
    """The class of a layer's twin, whose source TorchScript reads. Sizes are the units of each state, and the most,
    where these differ."""
    text = _source(cell, weights, num_layers, bidirectional, bias, recurrent, sizes)
    name = cell.name if cell.name.isidentifier() else "cell"  # a lambda's is none
    namespace = {"__name__": f"gatefuse.scripted.{name}"}
    return defined(text, f"<gatefuse scripted {name} {next(_numbers)}>", namespace, cell)["Scripted"]


def _source(
    cell: Cell,
    weights: tuple[str, ...],
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    recurrent: bool,
    sizes: tuple[int, ...],
) -> str:
    from gatefuse.kernels.codegen.torchscript import torchscript_source

    S = len(cell.states)
    x, state = ("x", "state") if recurrent else ("input", "hx")
    form = f"Tuple[{', '.join(['Tensor'] * S)}]" if S > 1 else "Tensor"

    def parts(value: str) -> str:
        return ", ".join(f"{value}[{k}]" for k in range(S)) if S > 1 else value

    finals = ", ".join(f"finals[{k}]" for k in range(S))
    rest = "weights[2], weights[3], weights[4:]" if bias else "None, None, weights[2:]"
    arguments = f"x, states, weights[0], weights[1], {rest}, reverse, False"
    widened = cut = ""
    if sizes:
        *own, most = sizes
        widened = "".join([f"\n        {v} = [wide(s, {most}) for s in {v}]" for v in ("states", "fresh")])
        cut = f"\n        sequences = [s[..., :{own[0]}] for s in sequences]"
        cut += f"\n        finals = [{', '.join([f'finals[{k}][..., :{n}]' for k, n in enumerate(own)])}]"
    return f"""\
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from gatefuse.kernels.spare_units import wide
from gatefuse.models.layers.layout import block_diagonal, for_all_gates, for_all_units
from gatefuse.models.layers.spare_units import full_weight
from gatefuse.models.torchscript.layer import ScriptedLayer

{torchscript_source(cell.program)}

class Scripted(ScriptedLayer):
    def forward(self, {x}: Tensor, {state}: Optional[{form}] = None, lengths: Optional[Tensor] = None,
                resets: Optional[Tensor] = None, reset_state: Optional[{form}] = None) -> Tuple[Tensor, {form}]:
        given: List[Tensor] = []
        if {state} is not None:
            given = [{parts(state)}]
        fresh: List[Tensor] = []
        if reset_state is not None:
            fresh = [{parts("reset_state")}]
        output, finals = self.run({x}, given, lengths, resets, fresh)
        return output, {f"({finals})" if S > 1 else finals}

    def weights(self) -> List[Tensor]:
        return [{", ".join(weights)}]

    def direction(self, x: Tensor, states: List[Tensor], weights: List[Tensor], restarts: Optional[Tensor],
                  fresh: List[Tensor], live: Optional[Tensor], reverse: bool) -> Tuple[Tensor, List[Tensor]]:{widened}
        if restarts is None and live is None:
            sequences, finals = loop({arguments})
        else:
            sequences, finals = masked_loop({arguments}, restarts, fresh, live){cut}
        return sequences[0], finals
{_by_torch(cell, num_layers, bidirectional, bias) if vendor.knows(cell) else ""}"""


def _by_torch(cell: Cell, num_layers: int, bidirectional: bool, bias: bool) -> str:
    """The method that takes torch's own loop where it can."""
    name = {"elman": "rnn_tanh", "elman_relu": "rnn_relu"}.get(cell.name, cell.name)
    states, ends = ("states", "h, c") if name == "lstm" else ("states[0]", "h")
    return f"""
    def stack(self, x: Tensor, states: List[Tensor], resets: Optional[Tensor], fresh: List[Tensor],
              live: Optional[Tensor]) -> Tuple[Tensor, List[Tensor]]:
        if resets is not None or live is not None or x.numel() == 0:
            return self.layers(x, states, resets, fresh, live)
        dropout = self.dropout if self.training else 0.0
        train = dropout > 0 or torch.is_grad_enabled()
        output, {ends} = torch.{name}(
            x, {states}, self.weights(), {bias}, {num_layers}, dropout, train, {bidirectional}, False
        )
        return output, [{ends}]
"""

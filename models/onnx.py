"""Layers as ONNX's standard operators LSTM, GRU and RNN.

    torch.onnx.export(model, (x,), "model.onnx", dynamo=True, custom_translation_table=translation_table())

Each layer becomes one operator, with both directions if it has two, for any number of steps where dynamic_shapes says
so. Sources: ONNX operators LSTM, GRU and RNN, version 14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.cells import find_cell
from gatefuse.kernels.runtime.dynamo import constant
from gatefuse.kernels.task import Form


class _Standard(NamedTuple):
    """An operator of ONNX's: its name, torch's gates and parameters in its order, what it is told besides, and the
    activation that it is told for each direction."""

    name: str
    gates: tuple[int, ...]
    parameters: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})
    activation: str = ""


# torch's gates: LSTM i f g o, GRU r z n; ONNX's: i o f c, z r h
_STANDARD = {
    "lstm": _Standard("LSTM", (0, 3, 1, 2)),
    "peephole_lstm": _Standard("LSTM", (0, 3, 1, 2), (0, 2, 1)),
    "gru": _Standard("GRU", (1, 0, 2), attributes={"linear_before_reset": 1}),
    "gru_reset_first": _Standard("GRU", (1, 0, 2), attributes={"linear_before_reset": 0}),
    "elman": _Standard("RNN", (0,), activation="Tanh"),
    "elman_relu": _Standard("RNN", (0,), activation="Relu"),
}


_made: list[bool] = []  # once a table was


@constant
def check_export() -> None:
    """Refuse an export that reaches layers without a table for them: torch would only say its operator's name.

    A table that was made and not given goes unseen: only the exporter knows what it was given.

    Raises:
        RuntimeError: it goes to ONNX, and in this process nobody has made a table.
    """
    if torch.onnx.is_in_onnx_export() and not _made:
        raise RuntimeError(
            "torch.onnx.export must be given custom_translation_table=gatefuse.models.onnx.translation_table() (from "
            "gatefuse.models.onnx import translation_table), which says what gatefuse's layers are in ONNX. "
            "Got no such table."
        )


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for torch.onnx.export's ``custom_translation_table``; needs onnxscript, as that does.

    Exported are the cells elman, elman_relu, lstm, peephole_lstm, gru (linear_before_reset = 1) and gru_reset_first
    (linear_before_reset = 0), with lengths as sequence_lens; others make the export fail with the reason: a cell that
    ONNX has no operator for, resets, or all_states of a cell with several states.

    Raises:
        ImportError: onnxscript is not installed.
    """
    from onnxscript import INT32, opset18

    _made.append(True)

    from gatefuse.models.execution import operators  # noqa: F401  (defines the operator)

    op: Any = opset18  # typed for the bodies of its own functions, not for a translation's constants

    def rows(tensor: Any, first: int, last: int) -> Any:
        return op.Slice(tensor, [first], [last], [0])

    def translated(
        x: Any, states: Any, weights: Any, fresh: Any, lengths: Any, resets: Any,
        cell: str, by: str, bias: bool, bidirectional: bool, all_states: bool,
    ) -> Any:  # fmt: skip
        standard, H = _find(cell, resets is not None, all_states), weights[1].shape[1]
        form = Form(bias, bidirectional=bidirectional)
        D, each = form.directions, form.each + len(standard.parameters)
        told = dict(standard.attributes)
        if standard.activation:
            told["activations"] = [standard.activation] * D
        steps = None if lengths is None else op.Cast(lengths, to=INT32.dtype)

        def directions(tensors: Any) -> Any:
            """One for each direction, with that as the dimension ahead."""
            return op.Concat(*[op.Unsqueeze(tensor, [0]) for tensor in tensors], axis=0)

        def arranged(*tensors: Any) -> Any:
            """The tensors' gates in ONNX's order, one below the other."""
            parts = [rows(tensor, k * H, (k + 1) * H) for tensor in tensors for k in standard.gates]
            return op.Concat(*parts, axis=0)

        finals: list[list[Any]] = []
        for first in range(0, len(weights) // each, D):
            of = [weights[k * each : (k + 1) * each] for k in range(first, first + D)]
            inputs = [x, directions(arranged(w[0]) for w in of), directions(arranged(w[1]) for w in of)]
            inputs += [directions(arranged(*w[2:4]) for w in of) if bias else None, steps]
            inputs += [rows(state, first, first + D) for state in states]
            if standard.parameters:  # of an LSTM alone, behind its two states
                inputs += [None] * (2 - len(states))
                own = [w[len(w) - len(standard.parameters) :] for w in of]
                inputs.append(directions(op.Concat(*[p[k] for k in standard.parameters], axis=0) for p in own))
            output, *last = getattr(op, standard.name)(
                *inputs, hidden_size=H, direction="bidirectional" if bidirectional else "forward", **told
            )  # fmt: skip
            x = op.Reshape(op.Transpose(output, perm=[0, 2, 1, 3]), [0, 0, D * H])
            finals.append(last)
        results = [op.Concat(*column, axis=0) for column in zip(*finals, strict=True)]
        if lengths is not None and len(states):  # runtimes give zeros where a sample has no steps, for its first states
            empty = op.Unsqueeze(op.Equal(lengths, op.CastLike([0], lengths)), [1])
            results = [op.Where(empty, old, new) for old, new in zip(states, results, strict=True)]
        return [x, *results]

    return {torch.ops.gatefuse.layers.default: translated}


def _find(cell: str, resets: bool, all_states: bool) -> _Standard:
    found = Cell.named(cell)
    name = found.name
    if name not in _STANDARD or find_cell(name) is not found:  # a cell that only shares a name with one is another
        raise ValueError(f"cell must be one of {', '.join(_STANDARD)} to become an operator of ONNX. Got {name}.")
    if resets:
        raise ValueError("resets must be None in an export to ONNX, whose operators have none. Got resets.")
    if all_states and _STANDARD[name].name == "LSTM":
        raise ValueError("all_states must be False in an export to ONNX, whose LSTM gives the output alone. Got True.")
    return _STANDARD[name]

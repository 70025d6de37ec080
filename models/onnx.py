"""Layers as ONNX's standard operators LSTM, GRU and RNN.

    torch.onnx.export(model, (x,), "model.onnx", dynamo=True, custom_translation_table=translation_table())

Each direction of each layer becomes one operator, for any number of steps where dynamic_shapes says so. Sources: ONNX
operators LSTM, GRU and RNN, version 14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch


class _Standard(NamedTuple):
    """An operator of ONNX's: its name, torch's gates and parameters in its order, and what it is told besides."""

    name: str
    gates: tuple[int, ...]
    parameters: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})


# torch's gates: LSTM i f g o, GRU r z n; ONNX's: i o f c, z r h
_STANDARD = {
    "lstm": _Standard("LSTM", (0, 3, 1, 2)),
    "peephole_lstm": _Standard("LSTM", (0, 3, 1, 2), (0, 2, 1)),
    "gru": _Standard("GRU", (1, 0, 2), attributes={"linear_before_reset": 1}),
    "gru_reset_first": _Standard("GRU", (1, 0, 2), attributes={"linear_before_reset": 0}),
    "elman": _Standard("RNN", (0,), attributes={"activations": ["Tanh"]}),
    "elman_relu": _Standard("RNN", (0,), attributes={"activations": ["Relu"]}),
}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For torch.onnx.export's ``custom_translation_table``; needs onnxscript, as that does.

    Exported are the cells elman, elman_relu, lstm, peephole_lstm, gru (linear_before_reset = 1) and gru_reset_first
    (linear_before_reset = 0), with lengths as sequence_lens; others make the export fail with the reason: a cell that
    ONNX has no operator for, resets, or all_states of a cell with several states.

    Raises:
        ImportError: onnxscript is not installed.
    """
    from onnxscript import INT32, opset18

    from gatefuse.models import traced  # noqa: F401  (defines the operator)

    op: Any = opset18  # typed for the bodies of its own functions, not for a translation's constants

    def translated(
        x: Any, states: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, parameters: Any, lengths: Any, resets: Any,
        fresh: Any, cell: str, by: str, reverse: bool, all_states: bool,
    ) -> Any:  # fmt: skip
        standard, H = _find(cell, resets is not None, all_states), w_hh.shape[1]

        def rows(tensor: Any, k: int, size: int) -> Any:
            return op.Slice(tensor, [k * size], [(k + 1) * size], [0])

        def arranged(*tensors: Any) -> Any:
            """The tensors' gates in ONNX's order, one below the other, with the dimension of directions ahead."""
            parts = [rows(tensor, k, H) for tensor in tensors for k in standard.gates]
            return op.Unsqueeze(op.Concat(*parts, axis=0), [0])

        inputs = [x, arranged(w_ih), arranged(w_hh), None if b_ih is None else arranged(b_ih, b_hh)]
        inputs.append(None if lengths is None else op.Cast(lengths, to=INT32.dtype))
        inputs += [op.Unsqueeze(state, [0]) for state in states]
        if standard.parameters:
            inputs.append(op.Unsqueeze(op.Concat(*[parameters[k] for k in standard.parameters], axis=0), [0]))
        output, *parts = getattr(op, standard.name)(
            *inputs, hidden_size=H, direction="reverse" if reverse else "forward", **standard.attributes
        )
        finals = [op.Squeeze(part, [0]) for part in parts]
        if lengths is not None:  # runtimes give zeros where a sample has no steps, for its first states
            empty = op.Unsqueeze(op.Equal(lengths, op.CastLike([0], lengths)), [1])
            finals = [op.Where(empty, old, new) for old, new in zip(states, finals, strict=True)]
        return [op.Squeeze(output, [1]), *finals]

    return {torch.ops.gatefuse.sequence.default: translated}


def _find(cell: str, resets: bool, all_states: bool) -> _Standard:
    if cell not in _STANDARD:
        raise ValueError(f"cell must be one of {', '.join(_STANDARD)} to become an operator of ONNX. Got {cell}.")
    if resets:
        raise ValueError("resets must be None in an export to ONNX, whose operators have none. Got resets.")
    if all_states and _STANDARD[cell].name == "LSTM":
        raise ValueError("all_states must be False in an export to ONNX, whose LSTM gives the output alone. Got True.")
    return _STANDARD[cell]

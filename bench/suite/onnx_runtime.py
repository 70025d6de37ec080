"""ONNX Runtime's LSTM and GRU operators, which lay weights out when a session begins: what many deploy on a CPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from gatefuse.bench.suite.contender import Network
from gatefuse.bench.suite.sweeps import Group

CELLS = ("lstm", "gru")
# Places of torch's gates in ONNX's order: i o f c of torch's i f g o, and z r h of torch's r z n.
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
# Of the file that is written; onnx writes newer ones than a runtime may read.
_OPSET, _IR = 14, 8


def refusal(group: Group, device: torch.device) -> str:
    """Why it can't run a group, in words; "" where it can."""
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            return f"{package} is not installed"
    return "" if device.type == "cpu" else "its session is made for a CPU"


def build(group: Group, source: nn.Module) -> Network:
    """A session of the one operator, of as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_model(group, source), options, providers=["CPUExecutionProvider"])

    def forward(x: Tensor) -> Tensor:
        (output,) = session.run(None, {"x": x.numpy()})
        return torch.from_numpy(output).squeeze(1)  # (T, directions, B, H)

    return Network(forward, ())


def _model(group: Group, source: nn.Module) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    shape, order = group.shape, _GATES[group.shape.cell]
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in source.parameters())

    def arranged(weight: Tensor) -> Tensor:
        return torch.cat([weight.chunk(len(order))[k] for k in order])

    weights = {"W": arranged(w_ih), "R": arranged(w_hh), "B": torch.cat([arranged(b_ih), arranged(b_hh)])}
    initializers = [numpy_helper.from_array(w.unsqueeze(0).numpy(), name) for name, w in weights.items()]
    # the GRU whose reset gate acts after the product, as torch's
    more: dict[str, Any] = {"linear_before_reset": 1} if shape.cell == "gru" else {}
    node = helper.make_node(shape.cell.upper(), ["x", "W", "R", "B"], ["y"], hidden_size=shape.H, **more)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [shape.T, shape.B, shape.I])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape.T, 1, shape.B, shape.H])
    graph = helper.make_graph([node], "layer", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return bytes(model.SerializeToString())

"""On a GPU the host gives its work away and never waits: neither copy between the two nor value read back, in any loop.

On torch's meta tensors, which hold nothing, in the device's place; kernels are not started.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gatefuse import find_cell
from gatefuse.kernels.drivers.common import run
from gatefuse.kernels.drivers.packing import Packing
from gatefuse.kernels.loops.buffers import Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.triton import block, grid, step, step_launches
from gatefuse.kernels.runtime import device as limits
from gatefuse.kernels.runtime.graphs import recording
from tests.support import made_up_cells
from tests.support.oracle import change, make_task

LOOPS = {"step": step, "block": block, "grid": grid}
# Operators that read a value back, or take indices, whose copy torch does not show where they were a list.
WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "equal",
    "pin_memory",
    "masked_select",
    "unique",
    "index_put",
    "index.Tensor",
)


class Waits(TorchDispatchMode):
    """Notes the operators for which a host waits: those that see tensors of it and of the device, or read values."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = {v.device.type for v in tree_leaves((args, kwargs, result)) if isinstance(v, torch.Tensor)}
        if len(devices) > 1 or any(name in str(function) for name in WAITS):
            self.found.append(str(function))
        return result


@pytest.fixture
def made_up(monkeypatch):
    """Kernels are not started, and a made-up device has the limits of an H100."""
    for module in (step_launches, block, grid):
        monkeypatch.setattr(module, "launch", lambda *args, **constants: None)
    monkeypatch.setattr(limits, "_read", lambda device: limits.of_arch("sm_90"))
    monkeypatch.setattr(recording, "possible", lambda device: False)


def test_waiting_is_noticed():
    d = torch.zeros(3, 4, device="meta")
    with Waits() as waits:
        d[[0, 2]] = torch.ones(2, 4, device="meta")
        torch.zeros(3, 4).to("meta")
        d += 1
    assert waits.found == ["aten.index_put_.default", "aten._to_copy.default"]


CELLS = [
    *map(find_cell, ("lstm", "gru", "gru_reset_first", "article_peephole_lstm", "slstm")),
    made_up_cells.two_vectors, made_up_cells.indrnn,
]  # fmt: skip


@pytest.mark.parametrize("masks", [False, True], ids=["plain", "masks"])
@pytest.mark.parametrize("order", ["forward", "reverse", "both"])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("loop", LOOPS)
def test_loops_wait_for_nothing(made_up, loop, cell, order, masks):
    T, B, H, G, S = 8, 4, 64, len(cell.gates), len(cell.states)
    D = 2 if order == "both" else 1
    W = D * H

    def zeros(*shape, dtype=torch.bfloat16):
        return torch.zeros(*shape, device="meta", dtype=dtype)

    restarts = zeros(D, T, B, dtype=torch.bool) if D == 2 else zeros(T, B, dtype=torch.bool)
    optional = (restarts, zeros(S, B, W), zeros(T, B, dtype=torch.bool)) if masks else (None,) * 3
    weights = zeros(G * W, H), zeros(G * W), zeros(len(cell.parameters), W)
    inputs = Sequence(cell, zeros(T, B, G * W), zeros(S, B, W), *weights, *optional, order)
    upstream = Upstream(zeros(T, B, W), None, zeros(S, B, W))
    with Waits() as waits:
        LOOPS[loop].forward(inputs, False, False)
        kept = LOOPS[loop].forward(inputs, True, False)
        gradients = LOOPS[loop].backward(inputs, kept, upstream)
    assert waits.found == []
    assert gradients.bias.shape == (G * W,)


@pytest.mark.parametrize("options", [{}, {"lengths": True, "resets": True, "reverse": True}], ids=["plain", "masks"])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_way_to_the_loops_waits_for_nothing(made_up, loop, options):
    def to_device(value):
        return torch.empty(value.shape, device="meta", dtype=torch.bfloat16, requires_grad=True)

    task = change(make_task(find_cell("gru"), 8, 4, 64, **options), to_device)
    masks = {"lengths": (4,), "resets": (8, 4)} if options else {}
    for name, shape in masks.items():
        dtype = torch.bool if name == "resets" else torch.int64
        object.__setattr__(task, name, torch.zeros(shape, device="meta", dtype=dtype))
    with Waits() as waits:
        output = run(task, loop).sequences[0]
        torch.autograd.grad(output.sum(), [task.x, *task.weights[:4]])
    assert waits.found == []


@pytest.mark.parametrize(("device", "capturing"), [("cuda", True), ("cuda", False), ("cpu", True)])
def test_a_graph_holds_no_copy_from_the_host_s_memory(monkeypatch, device, capturing):
    """Within a capture the copy waits, which the capture refuses; elsewhere nobody waits for it."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, where, non_blocking=False: asked.append(non_blocking) or self)
    Packing.of(torch.tensor([2, 2, 1]), torch.device(device))
    assert asked == [not (capturing and device == "cuda")]

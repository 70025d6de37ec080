"""The contenders, as data. A new contender is an entry of CONTENDERS: how it is built, for which cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from gatefuse.bench.suite import compiled_step, hand_written, onnx_runtime, third_party
from gatefuse.bench.suite.contender import Contender, Network
from gatefuse.bench.suite.networks import (
    TORCH,
    auto,
    by_driver,
    one_step,
    packed,
    scratch,
    stepper,
    torch_layer,
    torch_padded,
)
from gatefuse.bench.suite.sweeps import Group
from gatefuse.kernels.drivers import DRIVERS
from gatefuse.kernels.loops.registry import KERNELS
from gatefuse.models.scratch import D2LGRU, FusedLSTM, NaiveLSTM

# The plain loop that speed-ups are over, and what stands for it where a cell has none: our own loop over its equations.
HAND_WRITTEN, EAGER = "hand-written loop", "gatefuse eager"
# The sweep for a GPU that is at hand for minutes has its own kernels and what they are to beat, and no loop in Python.
FIRST = "first"
KERNELS_AND_TORCH = (*(f"gatefuse {name}" for name in KERNELS), "torch.nn")
# Whose programs wait for each other: where that hangs, the barrier must not be measured for the limit either.
GRID = "gatefuse grid"


def contenders(group: Group) -> list[Contender]:
    """The contenders for a group's cell and sweep, whether or not they can run its shape."""
    found = [c for c in CONTENDERS if c.cells is None or group.shape.cell in c.cells]
    found = [c for c in found if group.shape.lengths or not c.only_ragged]
    return [c for c in found if c.name in KERNELS_AND_TORCH] if group.sweep == FIRST else found


def baseline(group: Group) -> str:
    """The contender that the group's speed-ups are over."""
    return HAND_WRITTEN if group.shape.cell in hand_written.STEPS else EAGER


def _scratch(name: str, cell: str, kind: Callable[..., nn.Module], batch_first: bool = True) -> Contender:
    return Contender(f"scratch {name}", scratch(kind, batch_first), (cell,), deep=False, ragged=False)


def _optional(
    name: str,
    build: Callable[[Group, nn.Module], Network],
    cells: tuple[str, ...],
    dtypes: tuple[str, ...],
    why: Callable[[Group, torch.device], str],
) -> Contender:
    return Contender(name, build, cells, deep=False, dtypes=dtypes, ragged=False, optional=True, why=why)


CONTENDERS = (
    Contender(HAND_WRITTEN, hand_written.build, tuple(hand_written.STEPS), headed=True),
    _scratch("8 products", "lstm", NaiveLSTM),
    _scratch("2 products", "lstm", FusedLSTM),
    _scratch("article", "article_peephole_lstm", partial(FusedLSTM, peephole=True)),
    _scratch("d2l GRU", "gru_reset_first", D2LGRU, batch_first=False),
    *(Contender(f"gatefuse {name}", by_driver(name), driver=name, headed=True) for name in DRIVERS),
    Contender("gatefuse auto", auto, driver="auto", headed=True),
    Contender("gatefuse packed", packed, only_ragged=True, headed=True),
    Contender("gatefuse Stepper", stepper, ragged=False, why=one_step),
    Contender("torch.compile step", compiled_step.build, deep=False, ragged=False, why=compiled_step.refusal),
    _optional("FlashRNN", third_party.flashrnn, third_party.FLASHRNN, third_party.FLOATS, third_party.flashrnn_refusal),
    _optional("Haste", third_party.haste, ("lstm", "gru"), ("float32",), third_party.missing("haste_pytorch")),
    _optional("TorchRL", third_party.torchrl, ("lstm", "gru"), ("float32",), third_party.missing("torchrl")),
    _optional("FlagGems", third_party.flaggems, ("lstm", "gru"), third_party.FLOATS, third_party.flaggems_refusal),
    Contender("torch.nn", torch_layer, tuple(TORCH)),
    Contender(
        "ONNX Runtime",
        onnx_runtime.build,
        onnx_runtime.CELLS,
        deep=False,
        dtypes=("float32",),
        modes=("forward",),
        ragged=False,
        optional=True,
        why=onnx_runtime.refusal,
    ),
    Contender("torch.nn padded", torch_padded, tuple(TORCH), one_way=True, only_ragged=True),
)

"""Inputs beside the gates as compiled layers read them: units side by side, no numbers twice where steps, samples or
layers have the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gatefuse.kernels.loops.directions import plain
from gatefuse.kernels.loops.llvm.schedule import Place

# By input, whether it has a part of its own for each layer and direction, each step and each sample.
Differs = tuple[tuple[bool, bool, bool], ...]


def differs(inputs: Sequence[Tensor]) -> Differs:
    """Of inputs (L * D, T, B, H) each, with 1 in the place of what they are the same for."""
    return tuple([(a.shape[0] > 1, a.shape[1] > 1, a.shape[2] > 1) for a in inputs])


def wide(inputs: Sequence[Tensor], H: int) -> list[Tensor]:
    """The inputs without gaps, with a number for each of H units."""
    return [plain(a.expand(*a.shape[:3], H)) for a in inputs]


def beside_arguments(form: Differs, block: int, row: int, T: int, B: int, H: int, size: int) -> dict[str, Any]:
    """Arguments of the layer and direction of that row; blocks of addresses are those of ``wide``, from that one on."""
    found: dict[str, Any] = {}
    for k, (rows, steps, samples) in enumerate(form):
        step = (B if samples else 1) * H * size
        at = row * (T if steps else 1) * step if rows else 0
        found |= {
            f"beside{k}": Place(block + k, at),
            f"beside{k}_step": step if steps else 0,
            f"beside{k}_row": H * size if samples else 0,
        }
    return found

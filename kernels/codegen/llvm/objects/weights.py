"""A layer's weights in the order in which a step for one stream reads them (stream.py); units that aren't there have
zeros."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from gatefuse.kernels.codegen.llvm.objects.stages import INPUT, Blocks, stages
from gatefuse.kernels.codegen.llvm.objects.stored import Stored
from gatefuse.kernels.equations.program import Program, Slot
from gatefuse.kernels.task import Weights


def floats_and_weights(
    program: Program, blocks: Blocks, stored: Stored, weights: Weights, H: int
) -> tuple[bytes, bytes]:
    """What stays in float32 (parameters, biases, scales), and the weights; given in float32 on a CPU."""
    matrices = {"input": stored.encode(weights.input), "recurrent": stored.encode(weights.recurrent)}
    floats = [_panels(p, blocks).flatten() for p in weights.parameters]
    codes = []
    for stage in stages(program):
        parts = [_panels(_bias(program, weights, slot, H), blocks) for slot in stage.slots]
        blocks_of_codes = []
        for product, _, gates in stage.segments:
            rows, scales = matrices["input" if product == INPUT else "recurrent"]
            if stored.scaled:
                parts += [_panels(scales[g * H : (g + 1) * H], blocks) for g in gates]
            of_gates = torch.stack([_panels(rows[g * H : (g + 1) * H], blocks) for g in gates])
            # (gates, panels, across, K), read by panel, k, gate and unit
            blocks_of_codes.append(of_gates.permute(1, 3, 0, 2).flatten(1))
        if parts:
            floats.append(torch.cat(parts, 1).flatten())
        if blocks_of_codes:
            codes.append(torch.cat(blocks_of_codes, 1).flatten())
    return _bytes(floats), _bytes(codes)


def _bias(program: Program, weights: Weights, slot: Slot, H: int) -> Tensor:
    found = weights.input.new_zeros(H, dtype=torch.float64)
    for bias, gate in (
        (weights.input_bias, slot.gate),
        (weights.recurrent_bias, program.columns[slot.column] if slot.column >= 0 else -1),
    ):
        if bias is not None and gate >= 0:
            found = found + bias[gate * H : (gate + 1) * H]
    return found.float()


def _panels(rows: Tensor, blocks: Blocks) -> Tensor:
    """Rows (H, ...) as (panels, across, ...)."""
    more = blocks.row - rows.shape[0]
    padded = pad(rows, [0, 0] * (rows.dim() - 1) + [0, more])
    return padded.unflatten(0, (blocks.panels, blocks.across))


def _bytes(tensors: list[Tensor]) -> bytes:
    return b"".join(t.contiguous().numpy().tobytes() for t in tensors)


def table_bytes(table: Tensor, stored: Stored, lanes: int) -> tuple[bytes, bytes]:
    """A table's rows in whole vectors, as their scales where they have any, and the rows themselves."""
    rows, scales = stored.encode(table)
    padded = pad(rows, [0, -table.shape[1] % lanes])
    return _bytes([scales] if stored.scaled else []), _bytes([padded])

"""The block driver's launches: one kernel for all steps of a tile of the batch. Shapes as in sequence.py."""

from __future__ import annotations

import torch
from torch import Tensor

from gatefuse.kernels.block_backward_kernels import block_backward_kernel
from gatefuse.kernels.block_kernels import block_forward_kernel
from gatefuse.kernels.cell import Cell
from gatefuse.kernels.codegen import device_functions
from gatefuse.kernels.launch import launch
from gatefuse.kernels.ops import buffer_shapes
from gatefuse.kernels.sequence import Forward, Gradients, Sequence, weight_gradients
from gatefuse.kernels.tiles import block_tiles


def precision(dtype: torch.dtype) -> str:
    """How products of float32 are multiplied."""
    # cuDNN's recurrent layers follow this flag; here it also decides whether the driver runs float32 at all.
    return "tf32" if dtype == torch.float32 and torch.backends.cudnn.allow_tf32 else "ieee"


def columns_weight(loop: Sequence, weight: Tensor) -> Tensor:
    """The recurrent weights in the order of the columns, (columns * H, H)."""
    parts = loop.weights(weight)
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts) if parts else weight[:0]


def forward(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, live: Tensor | None, reverse: bool, save: bool, all_states: bool,
) -> Forward:  # fmt: skip
    """Run all steps; with save, keep what the backward needs."""
    loop = Sequence.of(cell, x, states, reverse)
    T, B, H = loop.T, loop.B, loop.H
    rest_shape, saved_shape, fed_shape = buffer_shapes(cell, T, B, H, save, all_states)
    output, rest, saved = x.new_empty(T, B, H), x.new_empty(rest_shape), x.new_empty(saved_shape)
    fed = x.new_empty(fed_shape)
    finals = states.to(torch.float32, copy=True)
    if T * B * H:
        functions, (HP, BB, warps) = device_functions(cell), block_tiles(H)
        r_bias = loop.bias(bias)
        launch(
            block_forward_kernel, (-(-B // BB),), x, columns_weight(loop, weight), r_bias, states, parameters,
            restarts, live, output, rest, saved, fed, finals, fed_shape[1], T, B, H,
            UPDATE=functions.update, VECTORS=functions.any_vectors, CELL=loop.shape, REVERSE=reverse,
            HAS_BIAS=r_bias is not None, HAS_RESTARTS=restarts is not None, HAS_LIVE=live is not None,
            KEEP=rest_shape[0] > 0, SAVE=save, PRECISION=precision(x.dtype), HP=HP, BB=BB, num_warps=warps,
        )  # fmt: skip
    return Forward(output, rest, finals.to(x.dtype), saved, fed)


def backward(
    cell: Cell, x: Tensor, states: Tensor, weight: Tensor, bias: Tensor | None, parameters: Tensor,
    restarts: Tensor | None, live: Tensor | None, reverse: bool, kept: Forward,
    d_output: Tensor, d_rest: Tensor | None, d_finals: Tensor,
) -> Gradients:  # fmt: skip
    """Run all steps backward, then the products over all steps; ``kept`` is what a forward returned with save."""
    loop = Sequence.of(cell, x, states, reverse)
    T, B, H, shape = loop.T, loop.B, loop.H, loop.shape
    d_x, d_r = loop.gate_gradients(x)
    d_carry = d_finals.to(torch.float32, copy=True)
    d_params = torch.zeros(shape.P, B, H, dtype=torch.float32, device=x.device)
    if T * B * H:
        functions, (HP, BB, warps) = device_functions(cell), block_tiles(H)
        launch(
            block_backward_kernel, (-(-B // BB),), x, kept.saved, columns_weight(loop, weight), states, parameters,
            restarts, live, kept.output, kept.rest, d_output, d_rest, d_carry, d_x, d_r, d_params, T, B, H,
            BACKWARD=functions.any_backward, CELL=shape, REVERSE=reverse, HAS_RESTARTS=restarts is not None,
            HAS_LIVE=live is not None, HAS_D_REST=d_rest is not None, PRECISION=precision(x.dtype),
            HP=HP, BB=BB, num_warps=warps, num_stages=1,
        )  # fmt: skip
    d_weight, d_bias = weight_gradients(loop, states, weight, bias, restarts, kept, d_r)
    return Gradients(d_x, d_carry.to(x.dtype), d_weight, d_bias, d_params.sum(1).to(x.dtype))

"""The products over all steps that follow the llvm loop's backward: gradients of weights, biases and the input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatefuse.kernels.codegen.llvm.compiled import Compiled, products_loop
from gatefuse.kernels.codegen.llvm.products.ahead import LAID_OUT_NOW
from gatefuse.kernels.codegen.llvm.products.outer import CHUNK
from gatefuse.kernels.equations.program import computed_products
from gatefuse.kernels.loops.buffers import Backward, Forward, Gradients
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.llvm.live_rows import LiveRows, live_rows
from gatefuse.kernels.runtime.scratch import Scratch
from gatefuse.kernels.runtime.threads import team, threads

_SMALL = 200_000  # multiplications that a thread must have


def gradients(loop: Sequence, kept: Forward, d: Backward, wanted: bool) -> Gradients:
    """The gradients after the steps: of the input and its weights too, where the loop multiplied them."""
    rows = live_rows(loop)
    d_weight, d_bias = _recurrent(loop, kept, d.r, rows)
    d_input: Tensor | None = d.x
    d_input_weight = d_input_bias = None
    if (weight := loop.input_weight) is not None:
        d_input_weight = torch.empty_like(weight)
        same = loop.shape.ADDITIVE and d_bias is not None
        d_input_bias = None if loop.input_bias is None else torch.empty_like(loop.input_bias)
        d_x, x = (d.x, loop.x) if rows is None else (rows.of(d.x), rows.of(loop.x))
        _weights(loop, d_x, 0, weight.shape[0], d_input_weight, None if same else d_input_bias, x)
        if same and d_input_bias is not None and d_bias is not None:
            d_input_bias.copy_(d_bias)
        d_input = input_gradient(d_x, weight, x) if wanted else None
        if rows is not None and d_input is not None:
            d_input = rows.back(d_input, loop.x)
    parameters = d.parameters.sum(1)
    return Gradients(d_input, d.states, d_weight, d_bias, parameters, d.fresh, d_input_weight, d_input_bias)


def _recurrent(loop: Sequence, kept: Forward, d_r: Tensor, live: LiveRows | None) -> tuple[Tensor, Tensor | None]:
    H, fed, program = loop.H, computed_products(loop.cell), loop.program
    sizes = [len(p.gates) for p in program.products]
    in_order = program.columns == tuple(range(len(loop.cell.recurrent_gates)))
    columns = loop.weight.new_empty(len(program.columns) * H, H)
    bias = None if loop.bias is None else loop.bias.new_empty(len(program.columns) * H)
    d = d_r if live is None else live.of(d_r)
    for k, (p, size) in enumerate(zip(program.products, sizes, strict=True)):
        if p.reduces:
            continue
        rows = slice(p.first * H, (p.first + size) * H)
        part = None if bias is None else bias[rows]
        place = p.first * H, size * H, columns[rows], part
        if p.computed:
            vectors = kept.fed[fed.index(k)]
            _weights(loop, d, *place, vectors if live is None else live.of(vectors))
            continue
        sequence = kept.output if p.state == 0 else kept.rest[p.state - 1]
        if live is None:
            _weights(loop, d, *place, sequence, p.state)
        else:
            _weights(loop, d, *place, live.before(loop, sequence, p.state))
    if in_order:
        return columns, bias
    d_weight = torch.zeros_like(loop.weight)
    d_bias = None if loop.bias is None else torch.zeros_like(loop.bias)
    found: set[int] = set()
    for column, gate in enumerate(program.columns):
        if gate < 0:
            continue
        to, rows = slice(gate * H, (gate + 1) * H), slice(column * H, (column + 1) * H)
        for total, part in ((d_weight, columns), (d_bias, bias)):
            if total is not None and part is not None:
                # of a gate in several products all count
                total[to] = total[to] + part[rows] if gate in found else part[rows]
        found.add(gate)
    return d_weight, d_bias


def _weights(
    loop: Sequence, d: Tensor, first: int, N: int, weight: Tensor, bias: Tensor | None, x: Tensor, state: int = -1
) -> None:
    """Fill gradients of weights (N, K) and biases (N,) from N columns of d (T, B, ...) on; x is (T, B, K), or with a
    state its sequence, of which the rows before the steps are multiplied."""
    T, B, K = x.shape
    size = d.element_size()
    compiled, values = of_weights(d.dtype, T, B, N, K)
    of_state = B * K * size * state
    values |= {
        "d": d.data_ptr() + first * size,
        "d_row": d.shape[2] * size,
        "x": x.data_ptr(),
        "x_step": x.stride(0) * size,
        "x_row": x.stride(1) * size,
        "before": int(state >= 0),
        "reverse": int(loop.reverse),
        "first": loop.states.data_ptr() + of_state,
        "restarts": 0 if loop.restarts is None else loop.restarts.data_ptr(),
        "fresh": 0 if loop.fresh is None else loop.fresh.data_ptr() + of_state,
        "weight": weight.data_ptr(),
        "bias": 0 if bias is None else bias.data_ptr(),
    }
    _run(compiled, values, d.dtype)


def of_weights(dtype: torch.dtype, T: int, B: int, N: int, K: int) -> tuple[Compiled, dict[str, Any]]:
    """The code for gradients of weights (N, K) over T steps of B samples, and its arguments that are sizes; ``pack`` is
    how many numbers of memory it takes."""
    compiled, workers = products_loop("weights", dtype), _workers(T * B * N * K, N)
    sizes = {"T": T, "B": B, "N": N, "K": K, "pack": workers * _panels(compiled, K) * CHUNK}
    return compiled, team(workers) | sizes


def input_gradient(d: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """The gradient of the input x (T, B, K), whose product by weights (N, K) has the gradient d (T, B, N)."""
    N, K = weight.shape
    rows = d.shape[0] * d.shape[1]
    d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    compiled, values = of_input(d.dtype, rows, N, K)
    _run(compiled, values | {"d": d.data_ptr(), "weight": weight.data_ptr(), "d_x": d_x.data_ptr()}, d.dtype)
    return d_x


def of_input(
    dtype: torch.dtype, rows: int, N: int, K: int, layout: int = LAID_OUT_NOW
) -> tuple[Compiled, dict[str, Any]]:
    """The code for the gradient of an input of so many rows of K, by weights (N, K), and its arguments as of_weights
    has them. Only whole panels are read as they lie, whatever ``layout`` says."""
    compiled, workers = products_loop("input", dtype), _workers(rows * N * K, rows)
    numbers = _panels(compiled, K)
    sizes = {"rows": rows, "N": N, "K": K, "layout": layout if numbers == K else LAID_OUT_NOW}
    return compiled, team(workers) | sizes | {"pack": numbers * N}


def _run(compiled: Compiled, values: dict[str, Any], dtype: torch.dtype) -> None:
    """Run with memory for panels."""
    with Scratch(values["pack"], dtype) as pack:
        compiled.run(compiled.fields.filled(values | {"pack": pack.data_ptr()}))


def _workers(work: int, parts: int) -> int:
    return threads(max(1, min(work // _SMALL, parts)))


def _panels(compiled: Compiled, K: int) -> int:
    """K numbers in whole panels."""
    return -(-K // compiled.across) * compiled.across

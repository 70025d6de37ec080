"""The steps of a layer of another package, which has multiplied its input already, by one of gatefuse's drivers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatefuse.kernels.cell import Cell
from gatefuse.kernels.given_product import given_product
from gatefuse.kernels.task import Form
from gatefuse.models.execution.breaks import compiler_around
from gatefuse.models.execution.calls import Call, Results, loop, plan_of, request_of
from gatefuse.models.execution.context import autocast_on, transforming
from gatefuse.models.execution.heads import run_heads

# In lower precision a package rounds where it will, and gatefuse elsewhere.
_DTYPES = (torch.float32, torch.float64)


def runs(product: Tensor, *others: Tensor) -> bool:
    """Whether steps may run here: values in float32 or float64, all of one dtype and on one device, out of autocast,
    of torch.func's transforms and of what records operators. Elsewhere the package's own loop is what was asked for.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or transforming():
        return False
    dtype, device = product.dtype, product.device
    if dtype not in _DTYPES or device.type == "meta" or autocast_on(device) or not product.numel():
        return False
    return all(other.dtype == dtype and other.device == device for other in others)


def run(
    cell: Cell,
    driver: str,
    product: Tensor,
    states: Sequence[Tensor],
    R: Tensor,
    bias: Tensor | None = None,
    parameters: Sequence[Tensor] = (),
    inputs: Sequence[Tensor] = (),
    heads: int = 1,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a sequence whose input is multiplied.

    Args:
        cell: as it is written, with gates of two sides.
        driver: the one that is wanted, or auto.
        product: (T, B, G * H), with its bias, by gate.
        states: before the first step, (B, H) each.
        R: (G * H, H / heads), rows by gate and unit.
        bias: (G * H,), of the recurrent product.
        parameters: the cell's, (H,) each.
        inputs: the cell's beside the gates, (T, B, H) each, or 1 in the place of any of these.

    Returns:
        The output (T, B, H), and the final states, (B, H) each.

    Raises:
        RuntimeError: the driver can't run the call.
    """
    T, B, H = *product.shape[:2], states[0].shape[1]
    # of the input itself nothing is read, by weights without rows
    weights = [product.new_empty(0, 1), R]
    if bias is not None:
        weights += [product.new_empty(0), bias]
    beside = tuple([a[None] for a in (*product.split(H, -1), *inputs)])
    call = Call(
        x=product.new_zeros(T, B, 1),
        states=tuple([s.contiguous()[None] for s in states]),
        weights=[*weights, *parameters],
        lengths=None,
        resets=None,
        fresh=None,
        all_states=False,
        T=T,
        B=B,
        batched=True,
        given=True,
        inputs=beside,
    )
    form, fed = Form(bias is not None), given_product(cell.serial)
    # what compiles around this call would only see operators that it can't look into
    whole = _whole if compiler_around() is None else torch.compiler.disable(_whole)
    sequences, finals = whole(fed, call, form, heads, driver)
    return sequences[0], tuple([s[0] for s in finals])


def _whole(cell: Cell, call: Call, form: Form, heads: int, driver: str) -> Results:
    def one(cell: Cell, call: Call, form: Form) -> Results:
        return loop(cell, plan_of(request_of(cell, call), driver).driver, call, form)

    return run_heads(cell, call, form, heads, driver, one) if heads > 1 else one(cell, call, form)

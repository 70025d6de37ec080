"""The text of kernels: readable, cached, and accurate where it counts."""

import pytest
import torch
from llvmlite import binding as llvm

import gatefuse
from gatefuse.kernels.codegen.device_functions import device_functions
from gatefuse.kernels.tolerance import allowed
from tests.support import made_up_cells

LSTM = """\
@triton.jit
def update(slots, states, parameters):
    a_i = slots[0]
    a_f = slots[1]
    a_g = slots[2]
    a_o = slots[3]
    c = states[1]
    t0 = sigmoid(a_f) * c + sigmoid(a_i) * tanh(a_g)
    return (
        sigmoid(a_o) * tanh(t0),  # new h
        t0,  # new c
    )
"""


def test_source_reads_like_the_equations():
    text = gatefuse.source("lstm")
    assert LSTM in text
    assert "def backward_1(" in text
    assert "# d_a_i" in text


def test_source_of_every_cell_in_every_language():
    for cell in (*gatefuse.cell_names(), *made_up_cells.ALL):
        compile(gatefuse.source(cell), "source", "exec")
        llvm.parse_assembly(gatefuse.source(cell, "llvm")).verify()
        products = gatefuse.find_cell(cell).program.weighed
        assert ("torch.addmm" in gatefuse.source(cell, "torchscript")) is bool(products)


def test_unknown_language():
    with pytest.raises(ValueError, match=r"language must be triton, llvm or torchscript. Got 'cuda'."):
        gatefuse.source("lstm", "cuda")


def test_names_that_would_hide_others_are_changed():
    @gatefuse.cell(gates="tl exp")
    def awkward(x, R, sigmoid, *, k):
        a = x + R(sigmoid)
        return torch.sigmoid(a.tl) * torch.exp(-torch.tanh(a.exp)) + k * sigmoid

    from gatefuse.kernels.drivers import script, step
    from tests.support.oracle import check, make_task

    for driver in (script, step):
        check(driver, make_task(awkward, 2, 2, 5), torch.float32)


def test_device_functions_are_made_once():
    cell = gatefuse.find_cell("gru")
    assert device_functions(cell, 8) is device_functions(cell, 9)


def run(function, x):
    """A device function of mathlib on a vector."""
    import triton
    import triton.language as tl

    from gatefuse.kernels.triton import mathlib

    @triton.jit
    def kernel(x_ptr, y_ptr, N: tl.constexpr, F: tl.constexpr):
        e = tl.arange(0, N)
        tl.store(y_ptr + e, F(tl.load(x_ptr + e)))

    x = x.cuda() if torch.cuda.is_available() else x
    y = torch.empty_like(x)
    kernel[(1,)](x, y, N=x.numel(), F=getattr(mathlib, function))
    return y.cpu()


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "log1p", "expm1", "log_sigmoid"])
def test_relative_accuracy_near_nought_and_far_from_it(function):
    x = torch.logspace(-30, 1.9, 4096, base=10).float()
    for signed in (x, -x):
        if function in ("log1p", "expm1"):
            signed = signed.clamp(-0.99, 80.0)
        exact = getattr(torch.nn.functional if function == "log_sigmoid" else torch, function.replace("log_s", "logs"))
        reference = exact(signed.double())
        relative = ((run(function, signed).double() - reference) / reference).abs()
        theirs = ((exact(signed).double() - reference) / reference).abs()
        seen = reference.abs() > torch.finfo(torch.float32).tiny
        assert relative[seen].max() <= 4 * torch.finfo(torch.float32).eps
        assert relative[seen].max() <= allowed(theirs[seen].max(), torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "relu", "log_sigmoid", "log1p", "expm1"])
def test_limits_and_not_a_number(function):
    x = torch.tensor([torch.inf, 0.0, torch.nan, 100.0])
    exact = getattr(torch.nn.functional if function == "log_sigmoid" else torch, function.replace("log_s", "logs"))
    torch.testing.assert_close(run(function, x), exact(x), equal_nan=True)

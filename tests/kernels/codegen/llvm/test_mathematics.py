"""Functions of vectors in compiled code, on every level of processor: relative to their result at most twice as far
off as torch's, and the same where something is special."""

import ctypes
from math import inf, nan

import numpy as np
import pytest
import torch
from llvmlite import ir
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from gatefuse.kernels.codegen.llvm.code import I64, Code
from gatefuse.kernels.codegen.llvm.machine_code import MachineCode
from gatefuse.kernels.codegen.llvm.mathematics import Mathematics
from gatefuse.kernels.codegen.llvm.processor import LEVELS, this_processor
from gatefuse.kernels.codegen.llvm.vectors import Float


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_sigmoid(x):
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


# torch's, and one that computes in whatever numpy is given
FUNCTIONS = {
    "exp": (torch.exp, np.exp),
    "expm1": (torch.expm1, np.expm1),
    "sigmoid": (torch.sigmoid, sigmoid),
    "tanh": (torch.tanh, np.tanh),
    "log": (torch.log, np.log),
    "log1p": (torch.log1p, np.log1p),
    "log_sigmoid": (logsigmoid, log_sigmoid),
}
WIDER = {torch.float32: np.float64, torch.float64: np.longdouble}
MANY = 1 << 15
functions = pytest.mark.parametrize("name", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", WIDER, ids=str)
levels = pytest.mark.parametrize("level", LEVELS)


def run(name, level, x):
    """A function on a tensor, in whole vectors."""
    try:
        processor = this_processor(level)
    except RuntimeError as why:
        pytest.skip(str(why))
    size = x.element_size()
    kind = Float.of(size, processor)
    module = ir.Module("mathematics")
    module.triple = processor.triple
    code = Code(module, "run", [("n", I64), ("x", I64), ("y", I64)], public=True)
    n, source, target = (code.argument(k) for k in range(3))
    vectors = Mathematics(code, kind)
    with code.loop("i", 0, n, kind.lanes) as i:
        vectors.store(getattr(vectors, name)(vectors.load(source + i * size)), target + i * size)
    code.finish()
    compiled = MachineCode(module, processor)
    assert x.numel() % kind.lanes == 0
    y = torch.empty_like(x)
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(compiled.address("run"))(x.numel(), x.data_ptr(), y.data_ptr())
    return y


def grid(name, dtype):
    """Numbers where gates lie, of every magnitude near zero, and up to where results end."""
    generator = torch.Generator().manual_seed(0)

    def powers(low, high):
        return (torch.rand(MANY, generator=generator, dtype=torch.float64) * (high - low) + low).exp2()

    def between(low, high):
        return torch.linspace(low, high, MANY, dtype=torch.float64)

    if name == "log":
        parts = [powers(-120, 120), between(0.5, 2), between(1e-3, 100)]
    elif name == "log1p":
        parts = [between(-0.9, 2), between(-0.999, 100), powers(-45, 15), -powers(-45, -0.1)]
    else:
        near = powers(-45, 4)
        parts = [between(-12, 12), near, -near, between(-100, 88)]
    return torch.cat(parts).to(dtype)


def relative(found, exact):
    """The largest error of results that are no denormals."""
    info = torch.finfo(found.dtype)
    seen = (np.abs(exact) > info.tiny) & (np.abs(exact) < info.max)
    assert seen.mean() > 0.9
    return float(np.abs((found.numpy().astype(exact.dtype)[seen] - exact[seen]) / exact[seen]).max())


@functions
@dtypes
@levels
def test_relative_errors_are_at_most_twice_torch_s(name, dtype, level):
    theirs, reference = FUNCTIONS[name]
    if np.finfo(WIDER[dtype]).eps > torch.finfo(dtype).eps / 100:
        pytest.skip("numpy has no wider numbers here")
    x = grid(name, dtype)
    exact = reference(x.numpy().astype(WIDER[dtype]))
    assert relative(run(name, level, x), exact) <= 2 * relative(theirs(x), exact)


@functions
@dtypes
@levels
def test_special_values_are_torch_s(name, dtype, level):
    info = torch.finfo(dtype)
    small, large = info.tiny / 100, info.max / 4
    special = [0.0, -0.0, inf, -inf, nan, small, -small, info.smallest_normal, large, -large]
    ends = [1.0, -1.0, 2.0, -2.0, 88.5, -88.5, 89.5, -100.0, -104.5, 709.5, -709.5, 710.5, -745.5, 5e3, -5e3, 1e30]
    x = torch.tensor([*special, *ends, *[0.5] * 6], dtype=dtype)
    found, expected = run(name, level, x), FUNCTIONS[name][0](x)
    assert_close(found, expected, rtol=2 * info.eps, atol=4 * info.tiny * info.eps, equal_nan=True)


@functions
@dtypes
@levels
def test_the_largest_numbers_are_like_others(name, dtype, level):
    info = torch.finfo(dtype)
    x = torch.tensor([1.0, -1.0] * 8, dtype=dtype) * info.max
    assert_close(run(name, level, x), FUNCTIONS[name][0](x), rtol=2 * info.eps, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["expm1", "tanh", "log1p"])
@dtypes
@levels
def test_zeros_keep_their_sign(name, dtype, level):
    x = torch.tensor([0.0, -0.0] * 8, dtype=dtype)
    found = run(name, level, x)
    assert not found.any()
    assert torch.equal(found.signbit(), x.signbit())


@dtypes
@levels
def test_not_a_number_and_infinity_stay_in_their_lane(dtype, level):
    x = torch.full((64,), 0.5, dtype=dtype)
    x[5], x[40] = nan, inf
    found = run("tanh", level, x)
    assert found.isnan().nonzero().tolist() == [[5]]
    assert found[40] == 1
    others = torch.tensor([k for k in range(64) if k not in (5, 40)])
    assert torch.equal(found[others], found[:1].expand(62))

"""Device functions that generated kernels call. float32 in, float32 out, on blocks of any shape.

tanh and sigmoid keep their relative accuracy near 0, where 2 sigmoid(2 x) - 1 loses it; not-a-number flows through all.
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    # Below 0.625 an odd polynomial: minimax coefficients of S. L. Moshier's Cephes, tanhf.c. Above, no digits cancel.
    a = tl.abs(x)
    z = x * x
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    near = p * z * x + x
    far = 1.0 - 2.0 / (tl.exp(2.0 * a) + 1.0)
    return tl.where(a < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def log1p(x):
    # W. Kahan: the rounding of 1 + x is undone by the quotient.
    u = 1.0 + x
    d = u - 1.0
    rounded = tl.log(u) * (x / tl.where(d == 0.0, 1.0, d))
    return tl.where(d == 0.0, x, tl.where(d == x, tl.log(u), rounded))


@triton.jit
def expm1(x):
    # tanh(x / 2) is exact near 0: exp(x) - 1 = 2 t / (1 - t)
    t = tanh(0.5 * x)
    return tl.where(tl.abs(x) < 1.0, 2.0 * t / (1.0 - t), tl.exp(x) - 1.0)


@triton.jit
def log_sigmoid(x):
    return tl.where(x >= 0, 0.0, x) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def relu(x):
    return tl.where(x < 0, 0.0, x)


@triton.jit
def maximum(a, b):
    # torch lets not-a-number win on either side
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def minimum(a, b):
    return tl.where((a < b) | (a != a), a, b)

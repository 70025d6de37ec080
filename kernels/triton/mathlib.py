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


@triton.jit
def _left(a, b):
    # Of numbers that aren't negative; the quotient may be off by one where it is near a whole number.
    r = tl.fma(-tl.floor(a / b), b, a)
    r = tl.where(r < 0, r + b, r)
    return tl.where(r >= b, r - b, r)


@triton.jit
def remainder(a, b):
    # Exact where products and sums are fused, by two steps, of which the first leaves a quotient of 22 bits; where it
    # has more than 44, which are more than float32 has digits, it is not-a-number.
    a = tl.where(b == b, a, a)
    b = tl.where(a == a, b, b)
    x, y = tl.abs(a), tl.abs(b)
    large = y * 4194304.0
    r = tl.where(large == float("inf"), x, _left(x, large))
    r = tl.where(x < large * 4194304.0, _left(r, y), float("nan"))
    r = tl.where((y == float("inf")) & (x != y), x, r)
    r = tl.where(a < 0, -r, r)
    return tl.where((r != 0) & ((a < 0) != (b < 0)), r + b, r)

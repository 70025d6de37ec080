"""Functions of vectors by exact reductions and short series, relative to their result as precise as torch's.

exp: e^x = 2^n e^r with n a whole number and |r| <= ln 2 / 2; e^r by its Taylor series, whose rest is below half a unit.
log: x = 2^e m with m from sqrt(1/2) to sqrt(2); log m = 2 atanh(s), s = (m - 1) / (m + 1), by its series.
ln 2 is taken in two parts, of which the first has so few bits that its multiples are exact.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import factorial
from typing import Any, NamedTuple

from gatefuse.kernels.codegen.llvm.vectors import Vectors


class _Precision(NamedTuple):
    """Of a floating type: terms of the series of exp and of log, ln 2 in two parts, where exp's results end in zero and
    in infinity, from where sigmoid is not 0, and from where tanh is 1; factors of (tanh(y) / y - 1) / y^2 in powers of
    y^2, up to y = 5/8, by Chebyshev's points (mpmath.chebyfit)."""

    exp_terms: int
    log_terms: int
    ln2: tuple[float, float]
    ends: tuple[float, float]
    zero: float
    one: float
    tanh: tuple[float, ...]


# fmt: off
_SINGLE = _Precision(
    7, 5, (0.693359375, -2.12194440054690581e-4), (-104.0, 89.0), -88.72284, 10.0,
    (-0.006096714165908197, 0.020997178999074752, -0.05385090957851358, 0.13332769736976327, -0.33333328944134255),
)
_DOUBLE = _Precision(
    13, 11, (0.693147180369123816490, 1.90821492927058770002e-10), (-746.0, 710.0), -709.78271, 20.0,
    (-1.724487449484433e-05, 7.959955735264808e-05, -0.00023077616269519857, 0.0005874372860094381,
     -0.001455309297534642, 0.0035920589774734554, -0.008863229830925709, 0.021869488260559115,
     -0.05396825396139557, 0.13333333333326658, -0.3333333333333332),
)
# fmt: on


class Mathematics(Vectors):
    """Arithmetic of vectors, and functions of them."""

    @property
    def _precise(self) -> _Precision:
        return _SINGLE if self.kind.size == 4 else _DOUBLE

    def _series(self, x: Any, factors: Sequence[float]) -> Any:
        """The polynomial with these factors, that of the highest power first."""
        value = self.number(factors[0])
        for factor in factors[1:]:
            value = self.mul_add(value, x, self.number(factor))
        return value

    def _reduced(self, x: Any, lag: float = 0.0) -> tuple[Any, Any]:
        """n, as bits in the lowest places above a constant, and e^r - 1. With a lag n stays nearer to 0 by as much,
        where a difference of 2^n e^r and 1 would cancel what is precise; r then reaches further."""
        round_off, by = self.number(1.5 * 2**self.kind.mantissa), self.number(1.4426950408889634)
        terms = self._precise.exp_terms
        # the sum's last bit is worth 1
        if lag:
            terms += 3
            shifted = self.mul_add(x, by, self.intrinsic("copysign", self.number(-lag), self.neg(x)))
            shifted = self._b.fadd(shifted, round_off)
        else:
            shifted = self.mul_add(x, by, round_off)
        n = self._b.fsub(shifted, round_off)
        high, low = self._precise.ln2
        r = self.mul_add(n, self.number(-high), x)
        r = self.mul_add(n, self.number(-low), r)
        rest = self._series(r, [1 / factorial(k) for k in range(terms, 1, -1)])
        return self.as_bits(shifted), self.mul_add(self.mul(rest, r), r, r)

    def _power(self, n: Any, plus: int = 0) -> Any:
        """2^(n + plus), of n in the lowest bits; the rest of them falls out at the top."""
        n = self._b.shl(n, self.bits(self.kind.mantissa))
        return self.as_number(self._b.add(n, self.bits(self.kind.bias + plus << self.kind.mantissa)))

    def _clamped(self, x: Any, low: float, high: float) -> Any:
        return self.at_most(self.at_least(x, self.number(low)), self.number(high))

    def exp(self, x: Any) -> Any:
        n, e = self._reduced(self._clamped(x, *self._precise.ends))
        # by two powers, as one alone can't be as small as the smallest result
        constant = self.bits(1 << (self.kind.mantissa - 1))  # what stands above n
        n = self._b.sub(self._b.and_(n, self.bits((1 << self.kind.mantissa) - 1)), constant)
        half = self._b.ashr(n, self.bits(1))
        first = self._power(half)
        return self.mul(self.mul_add(first, e, first), self._power(self._b.sub(n, half)))

    def expm1(self, x: Any) -> Any:
        n, e = self._reduced(self._clamped(x, -40.0, self._precise.ends[1]), 0.4)
        half = self._power(n, -1)
        value = self.mul_add(half, e, self._b.fsub(half, self.number(0.5)))
        return self.intrinsic("copysign", self.add(value, value), x)

    def sigmoid(self, x: Any) -> Any:
        """1 / (1 + e^-x)"""
        n, e = self._reduced(self._clamped(self.neg(x), -40.0, self._precise.ends[1]))
        # halves, as e^-x may be larger than any number where its half is none
        half, by = self.number(0.5), self._power(n, -1)
        value = self.div(half, self.mul_add(by, e, self._b.fadd(by, half)))
        return self.select(self.compare("<", x, self.number(self._precise.zero)), self.number(0.0), value)

    def tanh(self, x: Any) -> Any:
        """1 - 2 / (e^2y + 1) for y = |x|, and a polynomial below 5/8, where that difference cancels what is precise."""
        y = self.at_most(self.intrinsic("fabs", x), self.number(self._precise.one))
        one, two, square = self.number(1.0), self.number(2.0), self.mul(x, x)
        n, e = self._reduced(self._b.fadd(y, y))
        power = self._power(n)
        far = self._b.fsub(one, self.div(two, self.mul_add(power, e, self._b.fadd(power, one))))
        near = self.mul_add(self.mul(self._series(square, self._precise.tanh), square), x, x)
        value = self.select(self.compare("<", y, self.number(0.625)), near, far)
        return self.intrinsic("copysign", value, x)

    def log(self, x: Any) -> Any:
        return self._log(x)

    def log1p(self, x: Any) -> Any:
        u = self._b.fadd(self.number(1.0), x)
        return self.intrinsic("copysign", self._log(u, self._b.fsub(x, self._b.fsub(u, self.number(1.0)))), x)

    def remainder(self, a: Any, c: Any) -> Any:
        """What a division leaves whose quotient is rounded down, so that it has the divisor's sign; exact."""
        zero, left = self.number(0.0), self.lanewise("fmod", a, c)
        other = self._b.xor(self.compare("<", left, zero), self.compare("<", c, zero))
        return self.select(self.both(other, self.compare("!=", left, zero)), self.add(left, c), left)

    def _log(self, x: Any, rest: Any = None) -> Any:
        """log(x + rest), where the sum can't be told from x."""
        kind, one = self.kind, self.number(1.0)
        # below the normal numbers, the exponent says nothing
        small = self.compare("<", x, self.number(2.0 ** (2 - kind.bias)))
        lifted = self.select(small, self.mul(x, self.number(2.0**kind.mantissa)), x)
        bits = self.as_bits(lifted)
        # so that the exponent is rounded with m's border at sqrt(2)
        border = self._b.sub(bits, self.bits(_bits_of(0.5**0.5, kind.size)))
        exponent = self._b.ashr(border, self.bits(kind.mantissa))
        m = self.as_number(self._b.sub(bits, self._b.shl(exponent, self.bits(kind.mantissa))))
        e = self._b.sitofp(exponent, kind.vector)
        e = self._b.fsub(e, self.select(small, self.number(kind.mantissa), self.number(0.0)))
        f = self._b.fsub(m, one)
        if rest is not None:
            # of the largest numbers the sum says all, and 2^-exponent is no normal number
            most = self.bits(kind.bias - 1)
            less = self._b.select(self._b.icmp_signed("<", exponent, most), exponent, most)
            f = self.mul_add(rest, self._power(self._b.sub(self.bits(0), less)), f)
        s = self.div(f, self._b.fadd(self.number(2.0), f))
        z = self.mul(s, s)
        series = self.mul(z, self._series(z, [2 / (2 * k + 1) for k in range(self._precise.log_terms, 0, -1)]))
        square = self.mul(self.mul(self.number(0.5), f), f)
        high, low = self._precise.ln2
        # log m = f - (square - s (square + series)), the small parts first
        tail = self.mul_add(s, self.add(square, series), self.mul(e, self.number(low)))
        value = self.mul_add(e, self.number(high), self._b.fsub(f, self._b.fsub(square, tail)))
        infinity = self.number(float("inf"))
        value = self.select(self.compare("==", x, infinity), infinity, value)
        value = self.select(self.compare("==", x, self.number(0.0)), self.number(float("-inf")), value)
        wrong = self._b.fcmp_unordered("<", x, self.number(0.0))
        return self.select(wrong, self.number(float("nan")), value)

    def log_sigmoid(self, x: Any) -> Any:
        below = self.at_most(x, self.number(0.0))
        return self._b.fsub(below, self.log1p(self.exp(self.neg(self.intrinsic("fabs", x)))))


def _bits_of(value: float, size: int) -> int:
    return int(struct.unpack("<i" if size == 4 else "<q", struct.pack("<f" if size == 4 else "<d", value))[0])

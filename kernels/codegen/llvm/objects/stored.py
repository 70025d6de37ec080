"""How an object holds weights: as they are, or in fewer bits, made numbers again in the midst of a product.

float32: as they are. float16 and int8: each row of a matrix times a scale of its own, which the row's sum is multiplied
with when the product is done. float16's scales are powers of two that bring a row's largest weight to 2^14 or above, so
that none is lost below float16's least number but those 2^28 times smaller; int8's bring it to 127.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from torch import Tensor

from gatefuse.kernels.codegen.llvm.code import I8, Code, Number
from gatefuse.kernels.codegen.llvm.vectors import Float, Vectors

_LEAST_HALF = 2.0**-14  # normal number


class Stored(NamedTuple):
    """A form of weights.

    Attributes:
        name: "float32", "float16" or "int8".
        size: bytes of a weight.
        encode: of a matrix's rows (N, K), what is stored, and the rows' scales (N,); ones in float32.
    """

    name: str
    size: int
    encode: Callable[[Tensor], tuple[Tensor, Tensor]]

    @property
    def scaled(self) -> bool:
        """Whether rows have scales."""
        return self.size < 4

    def meant(self, weight: Tensor) -> Tensor:
        """The weights that a stored matrix stands for, in float64."""
        codes, scales = self.encode(weight)
        return codes.double() * scales.double()[:, None]

    def load(self, code: Code, kind: Float, at: Number) -> Any:
        """A vector of stored weights as numbers, yet without their scales."""
        if not self.scaled:
            return code.load(at, kind.vector, kind.size)
        whole = ir.VectorType(ir.IntType(8 * self.size), kind.lanes)
        integers = code.builder.sext(code.load(at, whole, self.size), kind.integers)
        if self.name == "int8":
            return code.builder.sitofp(integers, kind.vector)
        # Where processors lack float16, LLVM would call a function for it. Its bits, moved to where float32's are, are
        # a number 2^112 times too small.
        v = Vectors(code, kind)
        bits = code.builder.and_(code.builder.shl(integers, v.bits(13)), v.bits(_signed(0x8FFFE000)))
        return code.builder.fmul(v.as_number(bits), v.number(2.0**112))


def _float32(weight: Tensor) -> tuple[Tensor, Tensor]:
    return weight, weight.new_ones(len(weight))


def _float16(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = torch.ldexp(weight.new_ones(len(weight)), torch.frexp(_largest(weight)).exponent - 15)
    codes = (weight.double() / scales.double()[:, None]).half()
    return torch.where(codes.abs() < _LEAST_HALF, 0.0, codes), scales


def _int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = _largest(weight) / 127
    scales = torch.where(scales > 0, scales, 1.0)  # the least numbers have no 127th part
    return (weight.double() / scales.double()[:, None]).round().clamp(-127, 127).to(torch.int8), scales


def _largest(weight: Tensor) -> Tensor:
    """Of each row; 1 where all are zero."""
    largest = weight.abs().amax(1) if weight.shape[1] else weight.new_zeros(len(weight))
    return torch.where(largest > 0, largest, 1.0)


def _signed(bits: int) -> int:
    return bits - (1 << 32)


STORED = {s.name: s for s in (Stored("float32", 4, _float32), Stored("float16", 2, _float16), Stored("int8", 1, _int8))}


def constant(module: ir.Module, name: str, data: bytes, align: int) -> ir.GlobalVariable:
    """Bytes that a module holds and nothing changes."""
    kind = ir.ArrayType(I8, len(data))
    found = ir.GlobalVariable(module, kind, name)
    found.linkage, found.global_constant, found.align = "internal", True, align
    text = "\\" + data.hex("\\") if data else ""
    found.initializer = ir.FormattedConstant(kind, f'c"{text}"')
    return found

"""Rounding to tf32, bit by bit beside exact arithmetic, and that it is what kernels multiply."""

import struct
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gatefuse import find_cell
from gatefuse.kernels.loops import inputs
from gatefuse.kernels.loops.buffers import Upstream
from gatefuse.kernels.loops.inputs import Sequence
from gatefuse.kernels.loops.triton import block, grid
from gatefuse.kernels.runtime.tf32 import rounded

INF, SIGN = 0x7F800000, 0x80000000
LARGEST, SMALLEST = 0x7F7FE000, 0x2000  # of tf32, finite and above zero


def of_bits(bits):
    return torch.tensor([bits - (bits >> 31 << 32)], dtype=torch.int32).view(torch.float32)


def to_bits(value):
    return value.view(torch.int32).item() & 0xFFFFFFFF


def exact(bits):
    """A finite float32 by its bits."""
    return Fraction(struct.unpack("<f", struct.pack("<I", bits))[0])


def expected(bits):
    """The nearest of the two tf32 around a float32, by exact differences; of two as near the one farther from zero."""
    sign, size = bits & SIGN, bits & ~SIGN
    below = size & ~0x1FFF
    if size == below:
        return bits
    above = below + 0x2000
    # Beyond the largest, the next one would be 2^128 if there were more exponents.
    upper = exact(above) if above < INF else Fraction(2) ** 128
    return sign | (below if exact(size) - exact(below) < upper - exact(size) else above)


EDGES = [
    0, 1, 0xFFF, 0x1000, 0x1001, SMALLEST - 1, SMALLEST, SMALLEST + 0x1000, 0x007FFFFF, 0x007FF000, 0x00800000,
    0x3F800000, 0x3F800FFF, 0x3F801000, 0x3F801001, 0x3F803000, 0x3FFFFFFF, 0x3FFFEFFF, LARGEST, LARGEST + 0xFFF,
    LARGEST + 0x1000, INF - 1, INF,
]  # fmt: skip


@pytest.mark.parametrize("sign", [0, SIGN])
@pytest.mark.parametrize("bits", EDGES, ids=hex)
def test_edges(bits, sign):
    """Zeros, denormals, halfway cases, carries into the exponent, overflow to infinity, infinity."""
    assert to_bits(rounded(of_bits(sign | bits))) == expected(sign | bits)


@given(st.integers(0, INF), st.sampled_from([0, SIGN]))
def test_any_number(bits, sign):
    assert to_bits(rounded(of_bits(sign | bits))) == expected(sign | bits)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, 0x7F801FFF, 0xFF800001, 0xFFFFFFFF], ids=hex)
def test_not_a_number_stays_so_when_its_last_bits_are_cut_off(bits):
    assert of_bits(to_bits(rounded(of_bits(bits))) & ~0x1FFF).isnan()


@pytest.mark.parametrize("loop", [block, grid])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_first"])
def test_kernels_multiply_rounded_weights_where_they_multiply_in_tf32(monkeypatch, loop, cell):
    """Launched for a GPU, as far as a launch is seen from here."""
    given = []
    monkeypatch.setattr(loop, "launch", lambda kernel, grid, *arguments, **constants: given.append(arguments))
    if loop is grid:
        monkeypatch.setattr(grid, "_form", lambda *_: "ptx")
    cell, T, B, H = find_cell(cell), 2, 2, 5
    G, S = len(cell.gates), len(cell.states)
    weight = torch.randn(G * H, H)
    assert not torch.equal(weight, rounded(weight))

    def weights(dtype=torch.float32):
        given.clear()
        zeros = lambda *shape: torch.zeros(*shape, dtype=dtype)  # noqa: E731
        shapes = zeros(T, B, G * H), zeros(S, B, H), weight.to(dtype), None, zeros(0, H)
        task = Sequence(cell, *shapes, None, None, None, "forward")
        kept = loop.forward(task, True, False)
        loop.backward(task, kept, Upstream(zeros(T, B, H), None, zeros(S, B, H)))
        sizes = (G * H, H)
        return [each for arguments in given for each in arguments if getattr(each, "shape", None) == sizes]

    assert weights()
    assert all(torch.equal(each, weight) for each in weights())  # in the interpreter, which multiplies all bits
    monkeypatch.setattr(inputs, "interpreted", lambda: False)
    assert len(weights()) == len(given) >= 2
    assert all(torch.equal(each, rounded(weight)) for each in weights())
    assert all(torch.equal(each, weight.half()) for each in weights(torch.float16))
    monkeypatch.setattr(inputs, "precision", lambda dtype: "ieee")
    assert all(torch.equal(each, weight) for each in weights())

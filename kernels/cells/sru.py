"""Simple recurrent unit: gates see the memory by weights of each unit, and a highway passes the input by.

Source: T. Lei et al., Simple Recurrent Units for Highly Parallelizable Recurrence (2018, arXiv:1709.02755). The
highway carries s, a product of the input with weights of its own, so that the sizes of input and state may differ.
"""

from torch import sigmoid

from gatefuse.kernels.cell import cell


@cell(gates="f:x r:x n:x s:x")
def sru(x, R, h, c, *, v_f, v_r):
    """c' = f c + (1 - f) n,  h' = r c' + (1 - r) s,  f = σ(x_f + v_f c),  r = σ(x_r + v_r c)"""
    f, r = sigmoid(x.f + v_f * c), sigmoid(x.r + v_r * c)
    c = f * c + (1 - f) * x.n
    return r * c + (1 - r) * x.s, c

"""Minimal GRU without recurrent weights: its gate and its candidate see the input alone.

Source: L. Feng et al., Were RNNs All We Needed? (2024, arXiv:2410.01201), section 3.1.
"""

from torch import sigmoid

from gatefuse.kernels.cell import cell


@cell(gates="z:x n:x")
def min_gru(x, R, h):
    """h' = (1 - z) h + z n,  z = σ(W_z x + b_z),  n = W_n x + b_n"""
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n

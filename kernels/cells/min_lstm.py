"""Minimal LSTM without recurrent weights, whose forget and input gates sum to one.

Source: L. Feng et al., Were RNNs All We Needed? (2024, arXiv:2410.01201), section 3.2.
"""

from torch import sigmoid

from gatefuse.kernels.cell import cell


@cell(gates="f:x i:x n:x")
def min_lstm(x, R, h):
    """h' = (f h + i n) / (f + i),  f = σ(W_f x + b_f),  i = σ(W_i x + b_i),  n = W_n x + b_n"""
    f, i = sigmoid(x.f), sigmoid(x.i)
    return (f * h + i * x.n) / (f + i)

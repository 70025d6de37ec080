"""Gated recurrent unit with the reset gate before the product: a step has two products, one after the other.

Source: K. Cho et al. (2014, arXiv:1406.1078, version 3); Dive into Deep Learning, Gated Recurrent Units; ONNX GRU's
default, linear_before_reset = 0. Parameters are laid out as torch.nn.GRU's: gates r, z, n, both biases. torch.nn.GRU
with the same weights computes another function.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="r z n")
def gru_reset_first(x, R, h):
    """n = tanh(x_n + R_n (r h) + b_hn),  h' = (1 - z) n + z h,  r and z sigmoids of W x + b + R h"""
    r, z = sigmoid(x.r + R.r(h)), sigmoid(x.z + R.z(h))
    n = tanh(x.n + R.n(r * h))
    return (1 - z) * n + z * h

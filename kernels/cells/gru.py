"""Gated recurrent unit with the reset gate after the product, as torch.nn.GRU and cuDNN compute it.

Source: K. Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014, arXiv:1406.1078, version 1 of
the paper has this form); ONNX GRU with linear_before_reset = 1.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="r z n")
def gru(x, R, h):
    """n = tanh(x_n + r (R_n h + b_hn)),  h' = (1 - z) n + z h,  r and z sigmoids of W x + b + R h"""
    y = R(h)
    r, z = sigmoid(x.r + y.r), sigmoid(x.z + y.z)
    n = tanh(x.n + r * y.n)
    return (1 - z) * n + z * h

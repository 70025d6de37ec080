"""The minimal gated unit: a GRU of one gate, which resets and updates.

Source: G.-B. Zhou et al., Minimal Gated Unit for Recurrent Neural Networks (2016, arXiv:1603.09420).
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="f n")
def minimal_gated_unit(x, R, h):
    """f = σ(W x + b + R h),  n = tanh(x_n + R_n (f h) + b_hn),  h' = (1 - f) h + f n"""
    f = sigmoid(x.f + R.f(h))
    n = tanh(x.n + R.n(f * h))
    return (1 - f) * h + f * n

"""Light GRU for speech: no reset gate, and relu in the candidate.

Source: M. Ravanelli et al., Light Gated Recurrent Units for Speech Recognition (2018, arXiv:1803.10225), without the
batch normalization of the input's product.
"""

from torch import relu, sigmoid

from gatefuse.kernels.cell import cell


@cell(gates="z n")
def li_gru(x, R, h):
    """h' = z h + (1 - z) max(0, n),  z = σ(z~),  gates of W x + b + R h"""
    a = x + R(h)
    z = sigmoid(a.z)
    return z * h + (1 - z) * relu(a.n)

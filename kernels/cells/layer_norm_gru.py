"""GRU with layer normalization: of both gates' sums together, and of the candidate's, the input's apart from R's.

Source: J. L. Ba, J. R. Kiros and G. E. Hinton, Layer Normalization (2016, arXiv:1607.06450), the GRU of its
supplementary material, with one bias where two are only ever summed. Gains begin with 1, biases with 0.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell
from gatefuse.kernels.equations.normalization import layer_norm

_GAINS = [f"{side}_gain_{gate}" for side in "xh" for gate in "rzn"]
_BIASES = ["b_r", "b_z", "b_n", "h_b_n"]


@cell(gates="r z n", bias="", parameter_init=dict.fromkeys(_GAINS, 1.0) | dict.fromkeys(_BIASES, 0.0))
def layer_norm_gru(
    x, R, h, *, x_gain_r, x_gain_z, x_gain_n, h_gain_r, h_gain_z, h_gain_n, b_r, b_z, b_n, h_b_n
):  # fmt: skip
    """h' = (1 - z) h + z n,  r, z = σ(LN(W x) + LN(R h) + b),  n = tanh(LN(W x) + b + r (LN(R h) + b'))"""
    y = R(h)
    x_r, x_z = layer_norm((x.r, x.z), (x_gain_r, x_gain_z))
    h_r, h_z = layer_norm((y.r, y.z), (h_gain_r, h_gain_z), (b_r, b_z))
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = tanh(layer_norm(x.n, x_gain_n, b_n) + r * layer_norm(y.n, h_gain_n, h_b_n))
    return (1 - z) * h + z * n

"""LSTM with layer normalization: of the input's sums over all gates, of the recurrent ones, and of the memory cell.

Source: J. L. Ba, J. R. Kiros and G. E. Hinton, Layer Normalization (2016, arXiv:1607.06450), equations 20 to 22, with
one bias in the place of the gates' three, which are only ever summed. Gains begin with 1, biases with 0.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell
from gatefuse.kernels.equations.normalization import layer_norm

_GAINS = [f"{side}_gain_{gate}" for side in "xh" for gate in "ifgo"] + ["c_gain"]
_BIASES = ["b_i", "b_f", "b_g", "b_o", "c_b"]


@cell(gates="i f g o", bias="", parameter_init=dict.fromkeys(_GAINS, 1.0) | dict.fromkeys(_BIASES, 0.0))
def layer_norm_lstm(
    x, R, h, c, *, x_gain_i, x_gain_f, x_gain_g, x_gain_o, h_gain_i, h_gain_f, h_gain_g, h_gain_o, b_i, b_f, b_g, b_o,
    c_gain, c_b,
):  # fmt: skip
    """As lstm, but of LN(W x) + LN(R h) + b, and h' = σ(o) tanh(LN(c'))"""
    of_x = layer_norm(x, (x_gain_i, x_gain_f, x_gain_g, x_gain_o))
    a = of_x + layer_norm(R(h), (h_gain_i, h_gain_f, h_gain_g, h_gain_o), (b_i, b_f, b_g, b_o))
    c = sigmoid(a.f) * c + sigmoid(a.i) * tanh(a.g)
    return sigmoid(a.o) * tanh(layer_norm(c, c_gain, c_b)), c

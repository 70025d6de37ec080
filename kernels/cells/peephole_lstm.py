"""LSTM with peepholes: diagonal weights let the gates see the memory cell.

Source: F. A. Gers and J. Schmidhuber, Recurrent Nets that Time and Count, IJCNN 2000; ONNX LSTM's input P holds the
same weights in the order p_i, p_o, p_f.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="i f g o")
def peephole_lstm(x, R, h, c, *, p_i, p_f, p_o):
    """As lstm, but i and f also see p_i c and p_f c, and o sees p_o c'"""
    a = x + R(h)
    i, f = sigmoid(a.i + p_i * c), sigmoid(a.f + p_f * c)
    c = f * c + i * tanh(a.g)
    return sigmoid(a.o + p_o * c) * tanh(c), c

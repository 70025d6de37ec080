"""LSTM with coupled input and forget gates: what is let in is what is let go.

Source: K. Greff et al., LSTM: A Search Space Odyssey (2015, arXiv:1503.04069), variant CIFG, without peepholes.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="i g o")
def cifg_lstm(x, R, h, c):
    """c' = (1 - σ(i)) c + σ(i) tanh(g),  h' = σ(o) tanh(c'),  gates i, g, o of W x + b + R h"""
    a = x + R(h)
    i = sigmoid(a.i)
    c = (1 - i) * c + i * tanh(a.g)
    return sigmoid(a.o) * tanh(c), c

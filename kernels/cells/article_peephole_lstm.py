"""The peephole LSTM that a widely copied article writes: the product takes the memory cell in place of the output.

Source: P. Esposito, Building an LSTM by hand on PyTorch (2020), class CustomLSTM with peephole=True. The candidate g
sees the input alone, so its rows of the recurrent weights have no effect and its b_hh none either.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="i f g o")
def article_peephole_lstm(x, R, h, c):
    """c' = σ(f) c + σ(i) σ(x_g),  h' = tanh(σ(o) c'),  gates i, f, o of W x + b + R c"""
    i, f, o = sigmoid(x.i + R.i(c)), sigmoid(x.f + R.f(c)), sigmoid(x.o + R.o(c))
    c = f * c + i * sigmoid(x.g)
    return tanh(o * c), c

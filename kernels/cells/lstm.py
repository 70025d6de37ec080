"""Long short-term memory with a forget gate, as torch.nn.LSTM and cuDNN compute it.

Source: S. Hochreiter and J. Schmidhuber, Long Short-Term Memory, Neural Computation 9 (1997); forget gate from
F. A. Gers, J. Schmidhuber, F. Cummins, Learning to Forget, Neural Computation 12 (2000).
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="i f g o")
def lstm(x, R, h, c):
    """c' = σ(f) c + σ(i) tanh(g),  h' = σ(o) tanh(c'),  each gate W x + b + R h"""
    a = x + R(h)
    c = sigmoid(a.f) * c + sigmoid(a.i) * tanh(a.g)
    return sigmoid(a.o) * tanh(c), c

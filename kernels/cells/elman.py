"""Elman's simple recurrent network, with tanh or with relu.

Source: J. L. Elman, Finding Structure in Time, Cognitive Science 14 (1990); the form and the two non-linearities are
those of torch.nn.RNN.
"""

from torch import relu, tanh

from gatefuse.kernels.cell import cell


@cell(gates="a")
def elman(x, R, h):
    """h' = tanh(W x + b + R h)"""
    return tanh(x.a + R.a(h))


@cell(gates="a")
def elman_relu(x, R, h):
    """h' = max(0, W x + b + R h)"""
    return relu(x.a + R.a(h))

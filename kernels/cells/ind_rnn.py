"""Independently recurrent network: each unit sees of the state itself alone, by a weight of its own.

Source: S. Li et al., Independently Recurrent Neural Network (2018, arXiv:1803.04831).
"""

from torch import relu

from gatefuse.kernels.cell import cell


@cell(gates="a:x")
def ind_rnn(x, R, h, *, u):
    """h' = max(0, W x + b + u h)"""
    return relu(x.a + u * h)

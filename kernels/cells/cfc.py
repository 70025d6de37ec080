"""Closed-form continuous-time cell: two candidates, between which the state moves with the time that has passed.

Source: R. Hasani et al., Closed-form Continuous-time Neural Networks (2022, arXiv:2106.13898), whose three networks
are here one layer each, of x and h, without the backbone that they may share. The time since the last step is
the input elapsed, one number a sample and step.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="f g k", inputs="elapsed")
def cfc(x, R, h):
    """s = σ(-f t),  h' = s tanh(g) + (1 - s) tanh(k),  f, g, k each W x + b + R h, t the time elapsed"""
    f, g, k = x + R(h)
    s = sigmoid(-f * x.elapsed)
    return s * tanh(g) + (1 - s) * tanh(k)

"""GRU with an attentional update gate: a score of each step, from outside, scales how much that step counts.

Source: G. Zhou et al., Deep Interest Evolution Network for Click-Through Rate Prediction (2019, arXiv:1809.03672).
The score is the input a, from 0 to 1, one number a sample and step.
"""

from torch import sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="u r n", inputs="a")
def augru(x, R, h):
    """u = a σ(W x + b + R h),  n = tanh(x_n + r (R_n h + b_hn)),  h' = (1 - u) h + u n"""
    u, r = x.a * sigmoid(x.u + R.u(h)), sigmoid(x.r + R.r(h))
    n = tanh(x.n + r * R.n(h))
    return (1 - u) * h + u * n

"""GRU-D's recurrence: a GRU whose state fades before each step, by as much as the time since the last values asks.

Source: Z. Che et al., Recurrent Neural Networks for Multivariate Time Series with Missing Values (2018,
arXiv:1606.01865). The input decay is what the paper's rate of fading is made of, W δ + b, one
number a unit, before its maximum with 0 and its exponential; x are the filled-in values beside their mask. What comes
before the recurrence, filling in and both, is gatefuse.GRUD's.
"""

from torch import exp, relu, sigmoid, tanh

from gatefuse.kernels.cell import cell


@cell(gates="z r n", inputs="decay")
def gru_d(x, R, h):
    """h~ = exp(-max(0, decay)) h,  n = tanh(x_n + R_n (r h~) + b_hn),  h' = (1 - z) h~ + z n"""
    h = exp(-relu(x.decay)) * h
    z, r = sigmoid(x.z + R.z(h)), sigmoid(x.r + R.r(h))
    n = tanh(x.n + R.n(r * h))
    return (1 - z) * h + z * n

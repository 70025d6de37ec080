"""sLSTM: scalar memory with exponential gates, a normalizer and a stabilizer.

Source: M. Beck et al., xLSTM: Extended Long Short-Term Memory (2024, arXiv:2405.04517), equations 8 to 17, with the
forget gate through logsigmoid. All states start from zero; a zero normalizer marks the first step, in which the
stabilizer is the input gate alone.
"""

from torch import exp, maximum, sigmoid, tanh, where
from torch.nn.functional import logsigmoid

from gatefuse.kernels.cell import cell


@cell(gates="i f z o")
def slstm(x, R, h, c, n, m):
    """c' = f c + i tanh(z),  n' = f n + i,  h' = σ(o) c' / n',  i = exp(i~ - m'),  f = exp(log σ(f~) + m - m')"""
    a = x + R(h)
    log_f = logsigmoid(a.f) + m
    m = where(n == 0, a.i, maximum(a.i, log_f))
    i, f = exp(a.i - m), exp((log_f - m).clamp(max=0))  # above 0 in the first step alone, where f meets only zeros
    c = f * c + i * tanh(a.z)
    n = f * n + i
    return sigmoid(a.o) * c / n, c, n, m

"""Values that are missing, and times that differ: GRU-D, and a cell of one's own that is told the time."""

import torch
from torch import sigmoid, tanh

import gatefuse

T, B, I, H = 20, 4, 3, 16
x, mask = torch.randn(T, B, I), torch.rand(T, B, I) < 0.5
gaps = torch.rand(T, B)  # the time from the step before to each step
elapsed = torch.zeros(T, B, I)  # since each value was seen
for t in range(1, T):
    elapsed[t] = gaps[t, :, None] + torch.where(mask[t - 1], 0.0, elapsed[t - 1])

layer = gatefuse.GRUD(I, H)
output, h_n = layer(x, mask, elapsed, mean=torch.zeros(I))
print("GRU-D: output", tuple(output.shape))
broken = x.masked_fill(~mask, float("nan"))
print("what is missing reaches nothing:", torch.equal(layer(broken, mask, elapsed, torch.zeros(I))[0], output))


@gatefuse.cell(gates="u n", inputs="gap")
def fading(x, R, h):
    h = torch.exp(-x.gap) * h
    u = sigmoid(x.u + R.u(h))
    return (1 - u) * h + u * tanh(x.n + R.n(h))


layer = gatefuse.Recurrent(gatefuse.zoneout(fading, h=0.1), I, H)
output, h_n = layer(x, inputs={"gap": gaps})
print("your own, with noise in training:", layer.plan(x, inputs={"gap": gaps}))

"""A cell of one's own in ten lines, the layer that follows from it, and the kernel that is generated for it."""

import torch
from torch import sigmoid, tanh

import gatefuse


@gatefuse.cell(gates="f n")
def light(x, R, h, *, decay):
    """A gated unit whose state fades by a learned rate of each unit."""
    f = sigmoid(x.f + R.f(h))
    n = tanh(x.n + R.n(f * h))
    return sigmoid(decay) * (1 - f) * h + f * n


layer = gatefuse.Recurrent(light, input_size=8, hidden_size=16, num_layers=2, bidirectional=True)
output, h_n = layer(torch.randn(20, 4, 8))
output.sum().backward()

print("output", tuple(output.shape), "h_n", tuple(h_n.shape))
print("gradient of decay:", tuple(layer.decay_l0.grad.shape))
print(gatefuse.source(light))

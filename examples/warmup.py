"""Who runs a call, and how the first one is spared the wait for a compiler."""

import torch

import gatefuse

layer = gatefuse.Recurrent("slstm", 16, 32)
x = torch.randn(35, 8, 16)  # (T, B, I)

print("the plan of a call:")
print(layer.plan(x))

print("\nthe plan of a call, after its kernels were compiled and its launches recorded:")
print(gatefuse.warmup(layer, T=35, B=8))

before = {name: p.clone() for name, p in layer.named_parameters()}
gatefuse.warmup(layer, T=35, B=8, backward=True, lengths=True)
same = all(torch.equal(p, before[name]) and p.grad is None for name, p in layer.named_parameters())
print("\nparameters and gradients are as before:", same)

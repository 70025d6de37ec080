"""The two GRUs: textbooks apply the reset gate before the recurrent product, torch.nn.GRU and cuDNN after it."""

import torch

import gatefuse
from gatefuse.models.convert import load_layer_state
from gatefuse.models.scratch import D2LGRU

x = torch.randn(12, 4, 8)  # (T, B, I)
after = gatefuse.Recurrent("gru", 8, 16)
before = gatefuse.Recurrent("gru_reset_first", 8, 16)
weights = after.state_dict()
before.load_state_dict(weights)  # the same names and shapes

theirs = torch.nn.GRU(8, 16)
theirs.load_state_dict(weights)
book = D2LGRU(8, 16)
load_layer_state(book, weights)

print("gru is torch.nn.GRU:", torch.allclose(after(x)[0], theirs(x)[0], atol=1e-6))
print("gru_reset_first is the book's:", torch.allclose(before(x)[0], book(x)[0], atol=1e-6))
print(f"largest difference between the two: {(after(x)[0] - before(x)[0]).abs().max():.3f}")

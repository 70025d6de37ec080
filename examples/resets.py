"""Sequences that begin anew within a batch, as episodes of reinforcement learning do."""

import torch

import gatefuse

layer = gatefuse.Recurrent("lstm", 8, 16)
x = torch.randn(10, 3, 8)  # (T, B, I)
resets = torch.zeros(10, 3, dtype=torch.bool)
resets[6, 1] = True  # sample 1 begins its second episode at step 6

output, _ = layer(x, resets=resets)
second, _ = layer(x[6:, 1:2])
print("the second episode knows nothing of the first:", torch.allclose(output[6:, 1:2], second, atol=1e-6))

learned = (torch.zeros(1, 3, 16), torch.ones(1, 3, 16))
output, _ = layer(x, resets=resets, reset_state=learned)
second, _ = layer(x[6:, 1:2], tuple(state[:, 1:2].contiguous() for state in learned))
print("or begins from a state of your own:", torch.allclose(output[6:, 1:2], second, atol=1e-6))

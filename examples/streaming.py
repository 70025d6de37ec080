"""Inference as the input comes in: the state is all that a chunk needs of those before."""

import torch

import gatefuse

layer = gatefuse.Recurrent("lstm", 8, 16, num_layers=2).eval()
signal = torch.randn(100, 1, 8)  # (T, B, I)

with torch.inference_mode():
    whole, _ = layer(signal)
    state, chunks = None, []
    for chunk in signal.split([1, 1, 30, 8, 60]):  # of any length
        output, state = layer(chunk, state)
        chunks.append(output)

print("in chunks as in one:", torch.allclose(torch.cat(chunks), whole, atol=1e-6))
print("bytes kept between two chunks:", sum(s.numel() * s.element_size() for s in state))

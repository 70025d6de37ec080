"""Sequences of different lengths in one batch: as lengths, or packed, with the same results."""

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatefuse

layer = gatefuse.Recurrent("gru", 8, 16, bidirectional=True)
x = torch.randn(10, 3, 8)  # (T, B, I), padded to the longest
lengths = [4, 10, 7]

output, h_n = layer(x, lengths=lengths)
packed, h_packed = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
unpacked, _ = pad_packed_sequence(packed)

print("output", tuple(output.shape), "with zeros after the end:", not output[4:, 0].any())
print("packed gives the same:", torch.allclose(output, unpacked, atol=1e-6), torch.allclose(h_n, h_packed, atol=1e-6))
alone, _ = layer(x[:4, :1])
print("as if it were alone:", torch.allclose(output[:4, :1], alone, atol=1e-6))

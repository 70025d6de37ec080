"""torch.nn.LSTM exchanged for gatefuse.LSTM: same arguments, weights and, but for rounding, results."""

import torch

import gatefuse

theirs = torch.nn.LSTM(input_size=28, hidden_size=64, num_layers=2, batch_first=True)
ours = gatefuse.LSTM(input_size=28, hidden_size=64, num_layers=2, batch_first=True)
ours.load_state_dict(theirs.state_dict())

x = torch.randn(8, 35, 28)  # (B, T, I)
expected, _ = theirs(x)
output, (h_n, c_n) = ours(x)

print("output", tuple(output.shape), "h_n", tuple(h_n.shape), "c_n", tuple(c_n.shape))
print("close:", torch.allclose(output, expected, atol=1e-6))
ours.driver = "vendor"  # torch's own loop
print("equal by vendor:", torch.equal(ours(x)[0], expected))
print("is a torch.nn.LSTM:", isinstance(ours, torch.nn.LSTM))

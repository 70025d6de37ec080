"""The two LSTMs that are called peephole: the field's, with diagonal weights, and the one of an article."""

import torch

import gatefuse

x = torch.randn(12, 4, 8)  # (T, B, I)
for name in ("peephole_lstm", "article_peephole_lstm"):
    layer = gatefuse.Recurrent(name, 8, 16)
    output, (h, c) = layer(x)
    own = [key for key, _ in layer.named_parameters() if key.startswith("p_")]
    print(f"{name}: output {tuple(output.shape)}, parameters of the peepholes: {', '.join(own) or 'none'}")

# Without its peepholes the first is an LSTM.
layer = gatefuse.Recurrent("peephole_lstm", 8, 16)
plain = gatefuse.Recurrent("lstm", 8, 16)
state = layer.state_dict()
plain.load_state_dict({key: state[key] for key in plain.state_dict()})
with torch.no_grad():
    for key, parameter in layer.named_parameters():
        if key.startswith("p_"):
            parameter.zero_()
print("an LSTM where they are zero:", torch.allclose(layer(x)[0], plain(x)[0], atol=1e-6))

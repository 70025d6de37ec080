"""A model that exists gets gatefuse's layers in place, and torch.nn's back."""

import torch
from torch import nn

import gatefuse


class Tagger(nn.Module):
    """A model as anybody writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 30)
        self.rnn = nn.LSTM(30, 18, bidirectional=True)
        self.head = nn.Linear(36, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(T, B) -> (T, B, 5)."""
        return self.head(self.rnn(self.embedding(tokens))[0])


model = Tagger()
optimizer = torch.optim.Adam(model.parameters())  # made before: the parameters stay the same objects
tokens = torch.randint(100, (20, 10))
before = model(tokens)

print(gatefuse.accelerate(model))
print("same results:", torch.allclose(model(tokens), before, atol=1e-6))
print("same parameters:", optimizer.param_groups[0]["params"][1] is model.rnn.weight_ih_l0)
print(gatefuse.restore(model))

"""Words as learned vectors in front of an LSTM, and a loss in which a rare class weighs more.

The sizes are those of a page that many learn the interface from: 10 texts of 20 words out of 100, embeddings of 30
numbers, 18 units. Class 1 is rare; weights that are inverse to the classes' frequency make up for it.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

import gatefuse

B, T, VOCABULARY, EMBEDDING, HIDDEN, CLASSES = 10, 20, 100, 30, 18, 2


class Classifier(nn.Module):
    """A text's class, from the LSTM's last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.lstm = gatefuse.LSTM(input_size=EMBEDDING, hidden_size=HIDDEN, num_layers=1, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """(B, T) -> logarithms of the classes' probabilities (B, CLASSES)."""
        _, (h_n, _) = self.lstm(self.embedding(words))
        return log_softmax(self.head(h_n[-1]), dim=-1)


torch.manual_seed(0)
model = Classifier()
words = torch.randint(VOCABULARY, (B, T))
output, (h_n, c_n) = model.lstm(model.embedding(words))
print("output", tuple(output.shape), "h_n", tuple(h_n.shape), "c_n", tuple(c_n.shape))

target = (torch.arange(B) < 2).long()  # 2 of 10 are of class 1
weights = B / (CLASSES * torch.bincount(target))
loss = nll_loss(model(words), target, weight=weights)
logits = model.head(h_n[-1])
same = torch.allclose(loss, cross_entropy(logits, target, weight=weights))
by_hand = -(weights[target] * model(words)[torch.arange(B), target]).sum() / weights[target].sum()
print("equal to cross-entropy:", same, "and to the mean by weight:", torch.allclose(loss, by_hand))

optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(60):
    loss = nll_loss(model(words), target, weight=weights)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.4f}, right: {(model(words).argmax(1) == target).sum()} of {B}")

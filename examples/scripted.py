"""A model with a cell of one's own becomes a file that a process without gatefuse loads and runs.

That is TorchScript, which torch has deprecated, as its warnings say. torch.export is what torch develops further, but a
program that it makes of gatefuse's layers runs only where gatefuse is imported.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn, sigmoid, tanh

import gatefuse


@gatefuse.cell(gates="f n")
def minimal(x, R, h):
    """The minimal gated unit, Zhou et al. 2016."""
    f = sigmoid(x.f + R.f(h))
    n = tanh(x.n + R.n(f * h))
    return (1 - f) * h + f * n


class Tagger(nn.Module):
    """Words (T, B) -> scores (T, B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 30)
        self.rnn = gatefuse.Recurrent(minimal, 30, 18, bidirectional=True)
        self.head = nn.Linear(36, 5)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embedding(words))[0])


# What another machine would run: torch alone, and an import of gatefuse fails.
ELSEWHERE = """
import sys
sys.modules["gatefuse"] = None
import torch
folder = sys.argv[1]
model = torch.jit.load(folder + "/model.pt")
words, expected = torch.load(folder + "/example.pt")
with torch.no_grad():
    print("same results without gatefuse:", torch.allclose(model(words), expected, atol=1e-6))
"""

model = Tagger().eval()
words = torch.randint(100, (20, 10))
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    torch.jit.save(gatefuse.scripted(model), Path(folder, "model.pt"))
    torch.save((words, model(words)), Path(folder, "example.pt"))
    command = [sys.executable, "-I", "-c", ELSEWHERE, folder]
    print(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout, end="")

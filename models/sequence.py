"""The five kinds of work on sequences, each as a small model on Recurrent, with a task whose answers are known.

    OneToOne       one input, one answer: a sequence of one step
    OneToMany      one input, a sequence of answers: the input is the first step, what follows comes from the state
    ManyToOne      a sequence, one answer: from the final state of the last layer
    ManyToMany     a sequence, an answer for each step: both directions are read
    EncoderDecoder a sequence, a sequence of another length: one network reads, another writes from the state

A task draws examples; ``fit`` trains any of the models on any task of its kind, ``accuracy`` says how well it does.
Importing this module trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gatefuse.kernels.cell import Cell
from gatefuse.models.layers.recurrent import Recurrent

IGNORED = -100  # a target where no answer is asked for, as torch's losses have it
END = 0  # the token that ends an answer, and that an answer begins from


class Example(NamedTuple):
    """A batch: what a model's forward takes, and the classes that it is to answer, IGNORED where none is wanted."""

    inputs: tuple[Tensor, ...]
    target: Tensor


Task = Callable[[int, torch.Generator], Example]


class OneToOne(nn.Module):
    """One answer of C classes to one input of I features: (B, I) -> logits (B, C).

    Args:
        cell: a cell or the name of one, as Recurrent's.
        I: features of the input.
        H: hidden units.
        C: classes.
    """

    def __init__(self, cell: str | Cell, I: int, H: int, C: int):
        super().__init__()
        self.rnn, self.head = Recurrent(cell, I, H), nn.Linear(H, C)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.rnn(x.unsqueeze(0))
        return self.head(output[0])


class OneToMany(nn.Module):
    """T answers to one input: (B, I) -> logits (T, B, C). The input is the first step, zeros are the others.

    Args:
        cell: a cell or the name of one, as Recurrent's.
        I: features of the input.
        H: hidden units.
        C: classes.
        T: answers.

    Raises:
        ValueError: T is below 1.
    """

    def __init__(self, cell: str | Cell, I: int, H: int, C: int, T: int):
        super().__init__()
        if T < 1:
            raise ValueError(f"T must be at least 1. Got {T}.")
        self.rnn, self.head, self.T = Recurrent(cell, I, H), nn.Linear(H, C), T

    def forward(self, x: Tensor) -> Tensor:
        nothing = x.new_zeros(self.T - 1, *x.shape)
        output, _ = self.rnn(torch.cat([x.unsqueeze(0), nothing]))
        return self.head(output)


class ManyToOne(nn.Module):
    """One answer to a sequence of tokens, such as the class of a text: (T, B) and lengths (B,) -> logits (B, C).

    Args:
        cell: a cell or the name of one, as Recurrent's.
        V: tokens in the vocabulary, each a learned vector of H numbers.
        H: hidden units.
        C: classes.
    """

    def __init__(self, cell: str | Cell, V: int, H: int, C: int):
        super().__init__()
        self.embedding, self.rnn, self.head = nn.Embedding(V, H), Recurrent(cell, H, H), nn.Linear(H, C)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        _, state = self.rnn(self.embedding(tokens), lengths=lengths)
        return self.head(_hidden(state)[-1])


class ManyToMany(nn.Module):
    """An answer at each step, such as a tag, from both directions: (T, B, I) -> logits (T, B, C).

    Args:
        cell: a cell or the name of one, as Recurrent's.
        I: features of a step.
        H: hidden units of each direction.
        C: classes.
    """

    def __init__(self, cell: str | Cell, I: int, H: int, C: int):
        super().__init__()
        self.rnn, self.head = Recurrent(cell, I, H, bidirectional=True), nn.Linear(2 * H, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class EncoderDecoder(nn.Module):
    """A sequence of another length, such as a translation, which ends with the token END.

    forward learns: it is given the right token before each answer. answer writes: it reads its own.

    Args:
        cell: a cell or the name of one, as Recurrent's.
        V: tokens of what is read.
        H: hidden units, and numbers in the learned vector of a token.
        C: tokens of what is written, END among them.
    """

    def __init__(self, cell: str | Cell, V: int, H: int, C: int):
        super().__init__()
        self.embedding, self.encoder = nn.Embedding(V, H), Recurrent(cell, H, H)
        self.answered, self.decoder, self.head = nn.Embedding(C, H), Recurrent(cell, H, H), nn.Linear(H, C)

    def forward(self, tokens: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
        """tokens (T, B), lengths (B,) and the token before each answer (U, B) -> logits (U, B, C)."""
        _, state = self.encoder(self.embedding(tokens), lengths=lengths)
        return self.head(self.decoder(self.answered(before), state)[0])

    def answer(self, tokens: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
        """tokens (T, B) and lengths (B,) -> what is written, (U, B); of ``before`` (U, B) only the shape is used."""
        _, state = self.encoder(self.embedding(tokens), lengths=lengths)
        token = torch.full_like(before[:1], END)
        written = []
        for _ in range(len(before)):
            output, state = self.decoder(self.answered(token), state)
            token = self.head(output).argmax(2)
            written.append(token)
        return torch.cat(written)


def _hidden(state: Any) -> Tensor:
    """The state that is the output, of those that a cell has."""
    return state if isinstance(state, Tensor) else state[0]


def _drawn(task: Task, B: int, generator: torch.Generator, model: nn.Module) -> Example:
    """Samples on the model's device."""
    inputs, target = task(B, generator)
    device = next(model.parameters()).device
    return Example(tuple([given.to(device) for given in inputs]), target.to(device))


def fit(model: nn.Module, task: Task, steps: int, B: int = 64, lr: float = 1e-2, seed: int = 0) -> list[float]:
    """Train a model on examples drawn anew at each step, by Adam with clipped gradients.

    Args:
        model: one whose forward takes the task's inputs.
        task: draws B samples by a generator.
        steps: of training, each with B samples.
        B: samples of a step.
        lr: Adam's step.
        seed: of the examples.

    Returns:
        The loss of each step.

    Raises:
        ValueError: steps or B is below 1, or the loss is no longer finite.
    """
    for name, size in (("steps", steps), ("B", B)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1. Got {size}.")
    generator = torch.Generator("cpu").manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    losses = []
    model.train()
    for _ in range(steps):
        inputs, target = _drawn(task, B, generator, model)
        loss = cross_entropy(model(*inputs).flatten(0, -2), target.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise ValueError(f"loss must stay finite. Got {losses[-1]} at step {len(losses)} with lr {lr:g}.")
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, task: Task, B: int = 1000, seed: int = 1) -> float:
    """The part, from 0 to 1, of B samples whose whole answer is right, in eval mode; not drawn by fit's seed.

    Args:
        model: one whose forward takes the task's inputs; an EncoderDecoder is asked for what it writes.
        task: draws B samples by a generator.
        B: samples.
        seed: of the samples.
    """
    inputs, target = _drawn(task, B, torch.Generator("cpu").manual_seed(seed), model)
    training = model.training
    model.eval()
    found = model.answer(*inputs) if isinstance(model, EncoderDecoder) else model(*inputs).argmax(-1)
    model.train(training)
    right = (found == target) | (target == IGNORED)
    return (right if right.dim() == 1 else right.all(0)).double().mean().item()

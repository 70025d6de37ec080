"""Text as numbers: tokens, a vocabulary, and batches of sequences in order or at random.

All as A. Zhang et al. define it in Dive into Deep Learning, chapter 8 (edition 2.0): what a letter is not becomes a
blank, the vocabulary is sorted by frequency, each pass over the text begins at a place drawn anew, and a target is the
token after.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

KINDS = ("char", "word")
UNKNOWN = "<unk>"
_NO_LETTERS = re.compile(r"[\W\d_]+")
Batch = tuple[Tensor, Tensor]


def letters(text: str) -> list[str]:
    """The lines of a text in lower case, with one blank for whatever is no letter between letters."""
    return [_NO_LETTERS.sub(" ", line.lower()).strip() for line in text.split("\n")]


def tokenize(lines: Iterable[str], kind: str) -> list[str]:
    """The tokens of all lines: characters, or words, which blanks part.

    Args:
        lines: as ``letters`` gives them, for example.
        kind: char or word.

    Raises:
        ValueError: a kind that isn't in KINDS.
    """
    if kind not in KINDS:
        raise ValueError(f"kind of token must be one of {', '.join(KINDS)}. Got {kind!r}.")
    return [token for line in lines for token in (line if kind == "char" else line.split())]


def join(tokens: Iterable[str], kind: str) -> str:
    """The tokens as text: words with a blank between, where ``kind`` is word, and characters with nothing."""
    return ("" if kind == "char" else " ").join(tokens)


class Vocabulary:
    """Tokens and their numbers: 0 is the unknown token, then come the reserved ones, then the others by frequency.

    Args:
        tokens: of a text; equally frequent ones keep the order in which they first come.
        min_freq: how often a token must occur to get a number; others become the unknown one.
        reserved: tokens that have a number though no text has them, such as marks of a sequence's end.

    Attributes:
        names: the token of each number.
    """

    def __init__(self, tokens: Iterable[str] = (), min_freq: int = 0, reserved: Sequence[str] = ()):
        frequent = [token for token, count in Counter(tokens).most_common() if count >= min_freq]
        self.names = list(dict.fromkeys([UNKNOWN, *reserved, *frequent]))
        self._numbers = {token: number for number, token in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, token: str) -> bool:
        return token in self._numbers

    def __getitem__(self, token: str) -> int:
        """The token's number, that of the unknown token where it has none."""
        return self._numbers.get(token, 0)

    def encode(self, tokens: Iterable[str]) -> Tensor:
        """The numbers (N,) of N tokens, int64."""
        return torch.tensor([self[token] for token in tokens], dtype=torch.int64)

    def decode(self, numbers: Tensor | Iterable[int]) -> list[str]:
        """The tokens of numbers.

        Raises:
            ValueError: a number that no token has.
        """
        found = [int(number) for number in numbers]
        for number in found:
            if not 0 <= number < len(self):
                raise ValueError(f"a token's number must be from 0 to {len(self) - 1}. Got {number}.")
        return [self.names[number] for number in found]


def check_size(N: int, batch: int, steps: int) -> None:
    """Raises ValueError: N tokens are too few for one batch, wherever the pass begins, or a size is below 1."""
    for name, size in (("batch", batch), ("steps", steps)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1. Got {size}.")
    least = batch * steps + steps + 1
    if least > N:
        raise ValueError(
            f"text must have at least {least} tokens for one batch of {batch} sequences of {steps} steps. Got {N}."
        )


def sequential_batches(corpus: Tensor, batch: int, steps: int, generator: torch.Generator | None = None) -> list[Batch]:
    """The batches of one pass, in which sequence b of a batch goes on where sequence b of the one before ended.

    Args:
        corpus: (N,) tokens.
        batch: sequences B in a batch.
        steps: T of each sequence.
        generator: draws where the pass begins, from 0 to T.

    Returns:
        Inputs and targets, (B, T) each, which are views of the corpus.

    Raises:
        ValueError: too few tokens for a batch.
    """
    check_size(len(corpus), batch, steps)
    begin = int(torch.randint(steps + 1, (), generator=generator))
    each = (len(corpus) - begin - 1) // batch
    inputs, targets = (corpus[k : k + batch * each].view(batch, each) for k in (begin, begin + 1))
    places = range(0, each // steps * steps, steps)
    return [(inputs[:, k : k + steps], targets[:, k : k + steps]) for k in places]


def random_batches(corpus: Tensor, batch: int, steps: int, generator: torch.Generator | None = None) -> list[Batch]:
    """The batches of one pass over sequences in random order, which don't overlap.

    Args:
        corpus: (N,) tokens.
        batch: sequences B in a batch.
        steps: T of each sequence.
        generator: draws where the pass begins, from 0 to T - 1, and the order.

    Returns:
        Inputs and targets, (B, T) each; a target is the token after.

    Raises:
        ValueError: too few tokens for a batch.
    """
    check_size(len(corpus), batch, steps)
    begin = int(torch.randint(steps, (), generator=generator))
    count = (len(corpus) - begin - 1) // steps
    order = begin + steps * torch.randperm(count, generator=generator)[: count // batch * batch]
    places = order.view(-1, batch, 1) + torch.arange(steps)
    return [(corpus[place], corpus[place + 1]) for place in places]


ORDERS: dict[str, Callable[..., list[Batch]]] = {"sequential": sequential_batches, "random": random_batches}

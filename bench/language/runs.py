"""The networks that the language models' report trains, as data: how, and what the book says they come to.

Published perplexities are those that A. Zhang et al. print in Dive into Deep Learning, chapter 9 (edition 2.0 beta),
after 500 epochs: sections 9.1 (GRU), 9.2 (LSTM) and 9.3 (two layers, for which the book takes a learning rate of 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from gatefuse.models.language.corpus import Text, prepare
from gatefuse.models.language.text import check_size
from gatefuse.models.language.training import Settings

MAX_TOKENS = 10_000  # what d2l trains on


@dataclass(frozen=True)
class Run:
    """One network of the report.

    Attributes:
        goal: the perplexity that it is to reach.
        published: the one that the book prints for it; 0.0 where it prints none.
    """

    name: str
    settings: Settings
    goal: float
    published: float = 0.0
    kind: str = "char"
    max_tokens: int = MAX_TOKENS


SCRATCH = Run("LSTM from scratch", Settings("scratch-d2l-lstm"), goal=1.3, published=1.3)
LAYERS = (
    Run("LSTM layer", Settings("lstm"), goal=1.1, published=1.1),
    Run("GRU layer", Settings("gru"), goal=1.1, published=1.0),
)
CHARACTERS = (
    *LAYERS,
    Run("LSTM of 2 layers", Settings("lstm", layers=2, lr=2.0), goal=1.1, published=1.0),
    SCRATCH,
    Run("GRU from scratch", Settings("scratch-d2l-gru"), goal=1.1, published=1.1),
)
WORDS = Run(
    "LSTM layer, words", Settings("lstm", embedding=64, steps=10), goal=2.0, kind="word", max_tokens=MAX_TOKENS // 2
)


def check(text: Text, epochs: int, word_epochs: int) -> list[str]:
    """What is trained on of the text, in words, by characters and by words.

    Raises:
        ValueError: fewer than one epoch, or a text too short for one of the networks.
    """
    for name, count in (("epochs", epochs), ("word_epochs", word_epochs)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1. Got {count}.")
    found = []
    for run in (SCRATCH, WORDS):
        corpus = prepare(text, run.kind, run.max_tokens)
        check_size(len(corpus.tokens), run.settings.batch, run.settings.steps)
        found.append(corpus.size)
    return found

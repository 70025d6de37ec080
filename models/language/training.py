"""Training a language model, as A. Zhang et al. do it in Dive into Deep Learning, section 8.5 (edition 2.0).

Plain gradient descent on the cross-entropy, gradients clipped by their norm. In sequential order the state goes on from
batch to batch of an epoch, without its history. All that is drawn in an epoch follows from the seed and the epoch's
number: a run that was stopped between two epochs goes on exactly as it would have.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from gatefuse.models.language.corpus import Corpus
from gatefuse.models.language.model import LanguageModel, detach, make_network
from gatefuse.models.language.text import ORDERS, check_size

SEEDS = 2**32  # an epoch's own seed, a million times as large, then still is one of torch's


@dataclass(frozen=True)
class Settings:
    """What a model is, and how it is trained; the defaults are d2l's.

    Attributes:
        network: one of network_names().
        hidden, layers: H and L.
        embedding: features of learned token vectors; 0 for one-hot tokens.
        batch, steps: sequences B in a batch, of T steps each.
        lr: gradient descent's step.
        clip: the largest norm of all gradients together.
        order: of the sequences, sequential or random.
        seed: of the first weights, and of where an epoch begins.
        driver: who runs the time loop, as Recurrent's.
    """

    network: str = "lstm"
    hidden: int = 256
    layers: int = 1
    embedding: int = 0
    batch: int = 32
    steps: int = 35
    lr: float = 1.0
    clip: float = 1.0
    order: str = "sequential"
    seed: int = 0
    driver: str = "auto"

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "batch", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Got {getattr(self, name)}.")
        if self.embedding < 0:
            raise ValueError(f"embedding must not be negative. Got {self.embedding}.")
        check_seed(self.seed)
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0. Got {getattr(self, name)}.")
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}. Got {self.order!r}.")

    def differences(self, other: Settings) -> str:
        """``hidden 32 where 64 is asked for``, "" if there are none; self is what is asked for."""
        pairs = [(f.name, getattr(other, f.name), getattr(self, f.name)) for f in fields(self)]
        return ", ".join(f"{name} {old} where {new} is asked for" for name, old, new in pairs if old != new)


def check_seed(seed: int) -> None:
    """Raises ValueError: a seed from which torch could not draw."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be from 0 to {SEEDS - 1}. Got {seed}.")


class Point(NamedTuple):
    """One epoch: its number from 1, exp of the mean cross-entropy of a token in it, and tokens a second."""

    epoch: int
    perplexity: float
    tokens_per_second: float


def build(settings: Settings, V: int) -> LanguageModel:
    """The model of V tokens, with first weights drawn by the seed.

    Args:
        settings: of which network, hidden, layers, embedding, seed and driver count.
        V: tokens in the vocabulary.

    Raises:
        ValueError: an unknown network, or sizes that don't fit it.
    """
    if settings.embedding and settings.network.startswith("scratch-d2l"):
        raise ValueError(f"{settings.network} must have one-hot tokens. Got an embedding of {settings.embedding}.")
    inputs = settings.embedding or V
    with torch.random.fork_rng(devices=[]):  # the caller's own draws stay as they would be
        torch.manual_seed(settings.seed)
        network = make_network(settings.network, inputs, settings.hidden, settings.layers, settings.driver)
        return LanguageModel(network, V, bool(settings.embedding))


@dataclass
class Trainer:
    """A model in training; where torch.distributed runs, each process takes its part of every batch.

    Attributes:
        corpus: what it learns.
        settings: what it is, and how it learns.
        curve: a point for each epoch done.

    Raises:
        ValueError: a text too short for one batch, or a batch that processes can't share evenly.
    """

    corpus: Corpus
    settings: Settings
    device: torch.device | str = "cpu"
    curve: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        s = self.settings
        check_size(len(self.corpus.tokens), s.batch, s.steps)
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if dist.is_initialized() else 0
        if s.batch % self.ranks:
            raise ValueError(f"batch must be a multiple of the {self.ranks} processes. Got {s.batch}.")
        part = s.batch // self.ranks
        self._mine = slice(rank * part, (rank + 1) * part)
        self._tokens = self.corpus.tokens.to(self.device)  # all of them, so that no step waits for a copy
        self.model = build(s, len(self.corpus.vocabulary)).to(self.device)
        self._run: nn.Module = self.model if self.ranks == 1 else DistributedDataParallel(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=s.lr)

    def epoch(self) -> Point:
        """Train for one pass over the text, and add its point to the curve.

        Raises:
            ValueError: the loss or a weight is no longer finite; the weights are then of no use.
        """
        s, number = self.settings, len(self.curve) + 1
        generator = torch.Generator().manual_seed(s.seed * 1_000_003 + number)
        batches = ORDERS[s.order](self._tokens, s.batch, s.steps, generator)
        self._run.train()
        state: Any = None
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        began = time.perf_counter()
        for inputs, targets in batches:
            state = None if state is None or s.order == "random" else detach(state)
            logits, state = self._run(inputs[self._mine], state)
            loss = cross_entropy(logits.flatten(0, 1), targets[self._mine].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), s.clip)
            self.optimizer.step()
            total += loss.detach()
        if self.ranks > 1:
            dist.all_reduce(total)
        mean = total.item() / (len(batches) * self.ranks)  # which also waits for the device
        seconds = time.perf_counter() - began
        if not math.isfinite(mean) or not all(p.isfinite().all() for p in self.model.parameters()):
            raise ValueError(
                f"loss and weights must stay finite. Got a loss of {mean:.3g} and lost them in epoch {number} "
                f"with lr {s.lr:g}."
            )
        perplexity = math.exp(min(mean, 700.0))  # beyond that there is no float
        self.curve.append(Point(number, perplexity, len(batches) * s.batch * s.steps / seconds))
        return self.curve[-1]

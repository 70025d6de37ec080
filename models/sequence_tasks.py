"""Tasks with known answers, one for each kind of work on sequences; none can be done without what the kind is about."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gatefuse.models.sequence import END, IGNORED, Example

DIGITS = 8

Sizes = ParamSpec("Sizes")
Draw = Callable[Concatenate[int, torch.Generator, Sizes], Example]


def _where_drawn(task: Draw[Sizes]) -> Draw[Sizes]:
    """The task on its generator's device, whatever the default device is."""

    @wraps(task)
    def on_device(B: int, generator: torch.Generator, *sizes: Sizes.args, **more: Sizes.kwargs) -> Example:
        with generator.device:
            return task(B, generator, *sizes, **more)

    return on_device


@_where_drawn
def same_sign(B: int, generator: torch.Generator) -> Example:
    """One to one: whether two numbers have the same sign, which no linear layer can say. (B, 2) -> 2 classes."""
    x = torch.rand(B, 2, generator=generator) * 2 - 1
    return Example((x,), (x.prod(1) > 0).long())


@_where_drawn
def counting(B: int, generator: torch.Generator, T: int = 6) -> Example:
    """One to many: from a digit on, count up, and from the last digit to zero. (B, DIGITS) -> (T, B) digits."""
    first = torch.randint(DIGITS, (B,), generator=generator)
    return Example((one_hot(first, DIGITS).float(),), (first + torch.arange(T)[:, None]) % DIGITS)


@_where_drawn
def majority(B: int, generator: torch.Generator, T: int = 15) -> Example:
    """Many to one: whether a text has more good words (1) than bad ones (2); others say nothing. (T, B) -> 2 classes.

    Texts have from 1 to T words, of DIGITS different ones.
    """
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    words = torch.randint(DIGITS, (T, B), generator=generator)
    live = torch.arange(T)[:, None] < lengths
    good, bad = (((words == word) & live).sum(0) for word in (1, 2))
    return Example((words, lengths), (good > bad).long())


@_where_drawn
def peaks(B: int, generator: torch.Generator, T: int = 12) -> Example:
    """Many to many in step: which numbers are above the one before and the one after. (T, B, 1) -> (T, B), 2 classes.

    The answer at a step needs the step after it, so one direction can't give it. The ends are no peaks.
    """
    x = torch.rand(T, B, 1, generator=generator)
    # Neighbours differ enough for an answer to be one.
    x = (x * 5).floor() / 5
    flat = x.squeeze(2)
    target = torch.zeros(T, B, dtype=torch.int64)
    target[1:-1] = ((flat[1:-1] > flat[:-2]) & (flat[1:-1] > flat[2:])).long()
    return Example((x,), target)


@_where_drawn
def spelling(B: int, generator: torch.Generator, T: int = 3) -> Example:
    """Many to many of another length: spell each digit as two letters, its high and its low part, then end.

    Of 1 to T digits; the letters are 1 to 3 for the high part and 4 to 6 for the low one, so that 7 classes with END.
    Digits are 0 to 8. (T, B) and lengths (B,) -> (2 * T + 1, B), IGNORED after END.
    """
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    digits = torch.randint(9, (T, B), generator=generator)
    letters = torch.stack([1 + digits // 3, 4 + digits % 3], 1).flatten(0, 1)
    ended = torch.cat([letters, torch.full((1, B), END)])
    place = torch.arange(2 * T + 1)[:, None]
    target = ended.masked_fill(place == 2 * lengths, END).masked_fill(place > 2 * lengths, IGNORED)
    before = torch.cat([torch.full((1, B), END), _known(target[:-1])])
    return Example((digits, lengths, before), target)


def _known(target: Tensor) -> Tensor:
    return target.masked_fill(target == IGNORED, END)

"""How far a training is: a bar in a terminal where tqdm is installed, else ten lines of a run."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from gatefuse.models.language.training import Point


class Progress:
    """A context that shows points as they come.

    Args:
        done: epochs before this run.
        epochs: of all runs together.
        quiet: show nothing.
        stream: where to.
    """

    def __init__(self, done: int, epochs: int, quiet: bool = False, stream: TextIO | None = None):
        self._epochs, self._quiet = epochs, quiet
        self._stream = stream or sys.stderr
        self._bar = None if quiet or done >= epochs or not self._stream.isatty() else _bar(done, epochs, self._stream)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, point: Point) -> None:
        """Say that an epoch is done."""
        text = f"perplexity {point.perplexity:.3f}, {point.tokens_per_second:.0f} tokens/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        elif not self._quiet and (point.epoch % max(1, self._epochs // 10) == 0 or point.epoch == self._epochs):
            print(f"epoch {point.epoch} of {self._epochs}: {text}", file=self._stream, flush=True)


def _bar(done: int, epochs: int, stream: TextIO) -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm(initial=done, total=epochs, unit="epoch", file=stream, dynamic_ncols=True)

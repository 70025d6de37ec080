"""A language model in training as a file: written whole or not at all, and read without running what it holds.

A checkpoint is a dictionary of numbers, texts and tensors, which torch loads with weights_only=True.
"""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gatefuse.bench.storage.lock import Lock
from gatefuse.bench.storage.whole_file import check_writable, write_whole
from gatefuse.models.language.model import LanguageModel
from gatefuse.models.language.text import KINDS, UNKNOWN, Vocabulary
from gatefuse.models.language.training import Point, Settings, Trainer, build

FORMAT = "gatefuse language model, 1"


@dataclass(frozen=True)
class Checkpoint:
    """A model in training, as a file holds it.

    Attributes:
        settings: the model's and its training's.
        vocabulary: of the text.
        kind: of token, char or word.
        text: the text's name; ``sha1`` and ``tokens`` say which text it was, and how much of it.
        curve: a point for each epoch done.
        weights: the model's state_dict.
        optimizer: the optimizer's.
    """

    settings: Settings
    vocabulary: Vocabulary
    kind: str
    text: str
    sha1: str
    tokens: int
    curve: list[Point]
    weights: dict[str, Any]
    optimizer: dict[str, Any]

    def model(self) -> LanguageModel:
        """The trained model, on the CPU."""
        model = build(self.settings, len(self.vocabulary))
        model.load_state_dict(self.weights)
        return model.eval()


def save(path: Path, trainer: Trainer) -> None:
    """Write the checkpoint; whoever is killed meanwhile leaves the one before.

    Args:
        path: of the file, in a folder that is there.
        trainer: between two epochs.

    Raises:
        OSError: it can't be written.
    """
    corpus = trainer.corpus
    contents = {
        "format": FORMAT,
        "settings": asdict(trainer.settings),
        "vocabulary": corpus.vocabulary.names,
        "kind": corpus.kind,
        "text": corpus.text.name,
        "sha1": corpus.text.sha1,
        "tokens": len(corpus.tokens),
        "curve": [tuple(point) for point in trainer.curve],
        "weights": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
    }
    try:
        write_whole(path, lambda file: torch.save(contents, file))
    except RuntimeError as error:  # torch's, where the disk is full
        raise OSError(f"{path} could not be written: {error}") from None


def claim(path: Path) -> Lock:
    """The right to train into a checkpoint, for as long as the run lasts; its folder is made. Loading needs none.

    Raises:
        OSError: it can't be written there, which is better known before an epoch is trained.
        ValueError: another run trains into it.
    """
    lock = Lock(path, "give --checkpoint another file")
    try:
        check_writable(path)
    except BaseException:
        lock.release()
        raise
    return lock


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: of a file that ``save`` wrote.

    Raises:
        OSError: the file can't be read.
        ValueError: it isn't whole, or holds something else.
    """
    with path.open("rb") as file:
        try:
            _check_sums(file)
            found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file makes torch raise nearly anything
            raise ValueError(
                f"checkpoint must be a whole file that train wrote. Got {path}, which torch can't read "
                f"({type(error).__name__})."
            ) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"checkpoint must be of a gatefuse language model. Got {path}, which holds something else.")
    try:
        names = found["vocabulary"]
        checkpoint = Checkpoint(
            settings=Settings(**found["settings"]),
            vocabulary=Vocabulary(reserved=names),
            curve=[Point(*point) for point in found["curve"]],
            **{name: found[name] for name in ("kind", "text", "sha1", "tokens", "weights", "optimizer")},
        )
        if names[0] != UNKNOWN or len(set(names)) != len(names) or checkpoint.kind not in KINDS:
            raise ValueError("its vocabulary is none")
        checkpoint.model()
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"checkpoint must hold a model that fits together. Got {path}: {first}") from None
    return checkpoint


def _check_sums(file: BinaryIO) -> None:
    """Raises BadZipFile: a part isn't what was written. torch itself reads weights with a flipped bit as they are."""
    with zipfile.ZipFile(file) as parts:
        if damaged := parts.testzip():
            raise zipfile.BadZipFile(damaged)
    file.seek(0)


def resume(trainer: Trainer, checkpoint: Checkpoint, path: Path) -> None:
    """Let a trainer go on from a checkpoint of the same settings and text.

    Raises:
        ValueError: settings or text differ; the trainer is then unchanged.
    """
    corpus = trainer.corpus
    size, V = len(corpus.tokens), len(corpus.vocabulary)
    if differences := trainer.settings.differences(checkpoint.settings):
        pass
    elif checkpoint.sha1 != corpus.text.sha1:
        differences = f"the text {checkpoint.text} where {corpus.text.name} is asked for"
    elif (checkpoint.kind, checkpoint.tokens) != (corpus.kind, size):
        differences = f"{checkpoint.tokens} {checkpoint.kind}s where {size} {corpus.kind}s are asked for"
    elif checkpoint.vocabulary.names != corpus.vocabulary.names:
        differences = f"a vocabulary of {len(checkpoint.vocabulary)} where another of {V} is asked for"
    if differences:
        raise ValueError(
            f"checkpoint must be of the same run to go on, or --checkpoint another file. Got {path} with {differences}."
        )
    trainer.model.load_state_dict(checkpoint.weights)
    trainer.optimizer.load_state_dict(checkpoint.optimizer)
    trainer.curve[:] = checkpoint.curve

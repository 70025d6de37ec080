"""Language models over any cell: text as tokens, the model, its training, and checkpoints."""

from gatefuse.models.language.checkpoint import Checkpoint, load, save
from gatefuse.models.language.corpus import Corpus, Text, find_text, prepare
from gatefuse.models.language.model import LanguageModel, detach, generate, make_network, network_names, stream
from gatefuse.models.language.text import Vocabulary, join, letters, random_batches, sequential_batches, tokenize
from gatefuse.models.language.training import Point, Settings, Trainer, build

__all__ = [
    "Checkpoint",
    "Corpus",
    "LanguageModel",
    "Point",
    "Settings",
    "Text",
    "Trainer",
    "Vocabulary",
    "build",
    "detach",
    "find_text",
    "generate",
    "join",
    "letters",
    "load",
    "make_network",
    "network_names",
    "prepare",
    "random_batches",
    "save",
    "sequential_batches",
    "stream",
    "tokenize",
]

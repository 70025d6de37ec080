"""Texts by name: a file's, The Time Machine, or the documentation that every Python carries."""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path

from torch import Tensor

from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.models.language.text import Vocabulary, letters, tokenize

# Where d2l keeps the text, and the sha1 that it publishes.
URL = "https://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt"
SHA1 = "090b5e7e70c295757f55df93cb0a180b9691891a"
# Names a file that holds it, for machines without a network.
PLACE = "GATEFUSE_TIME_MACHINE"
_SECONDS = 10  # that the network may take to answer
_ASKS = "gatefuse.models.language: asks the network for The Time Machine, about 180 kB, at"
_LIMIT = 1 << 20  # bytes that are read of an answer, whatever it is


@dataclass(frozen=True)
class Text:
    """A text, and what a program calls it.

    Attributes:
        content: all of it.
        name: for people, such as a file's path.
    """

    content: str
    name: str

    @cached_property
    def sha1(self) -> str:
        """The SHA-1 of its UTF-8."""
        return hashlib.sha1(self.content.encode()).hexdigest()


@dataclass(frozen=True)
class Corpus:
    """A text as numbers.

    Attributes:
        tokens: (N,) int64, the first N of the text.
        vocabulary: of the whole text, even where N tokens are less than it has.
        kind: of token, char or word.
        text: that they are of.
        total: tokens of the whole text; 0 where nobody counted them.
    """

    tokens: Tensor
    vocabulary: Vocabulary
    kind: str
    text: Text
    total: int = 0

    @property
    def size(self) -> str:
        """How many tokens these are: ``860 chars``, ``the first 10000 of 178979 chars``."""
        N = len(self.tokens)
        return f"{N} {self.kind}s" if self.total <= N else f"the first {N} of {self.total} {self.kind}s"


def prepare(text: Text, kind: str = "char", max_tokens: int = -1, min_freq: int = 0) -> Corpus:
    """The text as numbers, by d2l's rules.

    Args:
        text: any.
        kind: char or word.
        max_tokens: how many tokens from the beginning; all where -1.
        min_freq: how often a token must occur not to become unknown.

    Raises:
        ValueError: an unknown kind, max_tokens neither -1 nor above 0, a text without letters, or a min_freq that is
            negative or leaves no token.
    """
    if max_tokens != -1 and max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, or -1 for all. Got {max_tokens}.")
    if min_freq < 0:
        raise ValueError(f"min_freq must not be negative. Got {min_freq}.")
    tokens = tokenize(letters(text.content), kind)
    if not tokens:
        raise ValueError(f"text must have letters. Got none in {text.name}.")
    vocabulary = Vocabulary(tokens, min_freq)
    if len(vocabulary) == 1:
        raise ValueError(f"min_freq must leave a token. Got {min_freq}, and no {kind} is so frequent in {text.name}.")
    some = tokens if max_tokens == -1 else tokens[:max_tokens]
    return Corpus(vocabulary.encode(some), vocabulary, kind, text, len(tokens))


def announce(what: str) -> bool:
    """Say on stderr what the network is about to be asked for; True, as it may be."""
    print(what, file=sys.stderr, flush=True)
    return True


def find_text(which: str = "auto", allow: Callable[[str], bool] = announce) -> Text:
    """The text of that name, or of that file.

    Args:
        which: "time-machine"; "python", the documentation that Python carries; "auto", the first of these where it can
            be had, else the second, as its name then says; or a file's path.
        allow: told what would be loaded, from where, how large it is and where it is kept, before the network is asked;
            False forbids it.

    Raises:
        OSError: no such file, or no network.
        ValueError: a file that isn't text in UTF-8, or a Time Machine that isn't the published one.
    """
    if which == "time-machine":
        return time_machine(allow)
    if which == "python":
        return python_topics()
    if which != "auto":
        return read_text(Path(which))
    try:
        return time_machine(allow)
    except OSError as error:
        text = python_topics()
        return Text(text.content, f"{text.name}, for want of The Time Machine ({error})")


def read_text(path: Path) -> Text:
    """A file's text.

    Raises:
        OSError: it can't be read.
        ValueError: it isn't text in UTF-8.
    """
    return Text(_decode(path.read_bytes(), str(path)), str(path))


def python_topics() -> Text:
    """The texts of help("topics"), which pydoc carries; its words are of one Python release."""
    from pydoc_data.topics import topics

    return Text("\n".join(topics[name] for name in sorted(topics)), "Python's own documentation (pydoc_data.topics)")


def time_machine(allow: Callable[[str], bool] = announce) -> Text:
    """The Time Machine by H. G. Wells (1895, public domain), in d2l's edition; kept in the cache once it was loaded.

    It is taken from the file that the environment variable GATEFUSE_TIME_MACHINE names, else from the cache, else from
    the network.

    Args:
        allow: as find_text's.

    Raises:
        OSError: the file named isn't there, or the network may not be asked or doesn't give it.
        ValueError: its sha1 isn't the published one.
    """
    place = os.environ.get(PLACE)
    path = Path(place) if place else cache() / "timemachine.txt"
    if place or path.exists():
        return _published(path.read_bytes(), str(path))
    try:
        if not allow(f"{_ASKS} {URL}, and keeps it as {path}"):
            raise PermissionError("the network may not be asked")
        with urllib.request.urlopen(URL, timeout=_SECONDS) as answer:
            content = answer.read(_LIMIT)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise OSError(f"The Time Machine must be at {URL}, in {path} or where {PLACE} says. Got: {reason}") from None
    text = _published(content, URL)
    _keep(path, content)
    return text


def cache() -> Path:
    """The folder of what was loaded: GATEFUSE_CACHE, or gatefuse in XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("GATEFUSE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gatefuse"


def _published(content: bytes, where: str) -> Text:
    found = hashlib.sha1(content).hexdigest()
    if found != SHA1:
        raise ValueError(f"The Time Machine must have the sha1 {SHA1}. Got {found} from {where}.")
    return Text(_decode(content, where), "The Time Machine")


def _keep(path: Path, content: bytes) -> None:
    """Write the file whole or not at all; a cache that can't be written is no error."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def _decode(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"text must be in UTF-8. Got other bytes at {error.start} of {where}.") from None
    if "\0" in text:
        raise ValueError(f"text must not be binary. Got a zero byte in {where}.")
    return text.replace("\r\n", "\n")

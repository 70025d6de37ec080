"""Tokens, vocabularies, batches, and where a text comes from."""

import hashlib
import io
import os
from itertools import pairwise
from urllib.error import URLError

import pytest
import torch

from gatefuse.models.language import corpus as corpora
from gatefuse.models.language.corpus import PLACE, cache, find_text, prepare, python_topics, time_machine
from gatefuse.models.language.text import KINDS, Vocabulary, join, letters, random_batches, sequential_batches, tokenize


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty cache, no file named, and no network; calls are counted."""
    calls = []

    def urlopen(*args, **options):
        calls.append(args)
        raise URLError("no route to host")

    monkeypatch.delenv(PLACE, raising=False)
    monkeypatch.setenv("GATEFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return calls


def test_letters_are_what_is_kept():
    assert letters("The Time-Machine, by H. G.\n\n 1895_a\nNaïve Ünder") == [
        "the time machine by h g",
        "",
        "a",
        "naïve ünder",
    ]


def test_tokens_of_both_kinds():
    lines = ["ab c", "", "d"]
    assert tokenize(lines, "char") == ["a", "b", " ", "c", "d"]
    assert tokenize(lines, "word") == ["ab", "c", "d"]
    for kind in KINDS:
        assert join(tokenize(["ab c"], kind), kind) == "ab c"
    with pytest.raises(ValueError, match=r"kind of token must be one of char, word\. Got 'line'\."):
        tokenize(lines, "line")


def test_vocabulary_is_sorted_by_frequency():
    vocabulary = Vocabulary(["c", "b", "a", "b", "c", "c", "d"], min_freq=2, reserved=["<end>", "b"])
    assert vocabulary.names == ["<unk>", "<end>", "b", "c"]
    assert vocabulary.encode(["c", "a", "<end>"]).tolist() == [3, 0, 1]
    assert vocabulary.decode(torch.tensor([3, 0])) == ["c", "<unk>"]
    assert vocabulary["nothing"] == 0
    assert "c" in vocabulary
    assert len(Vocabulary()) == 1
    assert Vocabulary(["z", "y", "z", "x", "y"]).names == ["<unk>", "z", "y", "x"]
    for number in (-1, 4):
        with pytest.raises(ValueError, match=rf"a token's number must be from 0 to 3\. Got {number}\."):
            vocabulary.decode([number])


@pytest.mark.parametrize("batches", [sequential_batches, random_batches])
@pytest.mark.parametrize("N", [2 * 5 + 6, 50, 101])
def test_batches_hold_each_token_at_most_once_and_the_next_as_target(batches, N):
    numbers = torch.arange(N)
    begins = set()
    for seed in range(30):
        found = batches(numbers, 2, 5, torch.Generator().manual_seed(seed))
        assert found
        for inputs, targets in found:
            assert inputs.shape == targets.shape == (2, 5)
            assert torch.equal(targets, inputs + 1)
            assert torch.equal(inputs, inputs[:, :1] + torch.arange(5))
        seen = torch.cat([inputs.flatten() for inputs, _ in found])
        assert len(seen.unique()) == len(seen)
        begins.add(int(seen.min()))
        # fewer than a batch, the begin, and for sequential batches a rest of each sequence are left out
        assert len(seen) >= N - 1 - 5 - 2 * 5 - 1
    if batches is sequential_batches:
        assert begins == set(range(6))


def test_sequential_batches_go_on_where_the_last_one_ended():
    found = sequential_batches(torch.arange(100), 3, 5)
    for (before, _), (after, _) in pairwise(found):
        assert torch.equal(after[:, 0], before[:, -1] + 1)


def test_random_batches_are_in_another_order_each_time():
    first, again, other = (
        random_batches(torch.arange(200), 3, 5, torch.Generator().manual_seed(seed))[0][0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("batches", [sequential_batches, random_batches])
def test_a_text_shorter_than_a_batch(batches):
    with pytest.raises(
        ValueError,
        match=r"text must have at least 16 tokens for one batch of 2 sequences of 5 steps\. Got 15\.",
    ):
        batches(torch.arange(15), 2, 5)
    with pytest.raises(ValueError, match=r"steps must be at least 1\. Got 0\."):
        batches(torch.arange(15), 2, 0)


def test_without_a_network_python_has_a_text_and_says_so(nowhere):
    text = find_text("auto")
    assert text.name.startswith("Python's own documentation (pydoc_data.topics), for want of The Time Machine (")
    assert "no route to host" in text.name
    assert len(text.content) > 100_000
    assert text.content == find_text("python").content
    assert len(nowhere) == 1
    with pytest.raises(OSError, match=rf"The Time Machine must be at https:.*{PLACE} says\. Got: no route to host"):
        find_text("time-machine")


def test_the_time_machine_is_loaded_once(nowhere, monkeypatch):
    content = b"The Time Machine, of another edition\n"
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **options: io.BytesIO(content))
    with pytest.raises(ValueError, match=rf"The Time Machine must have the sha1 {corpora.SHA1}\. Got \w+ from https:"):
        time_machine()
    assert not cache().exists()
    monkeypatch.setattr(corpora, "SHA1", hashlib.sha1(content).hexdigest())
    assert time_machine().content == content.decode()
    assert [path.name for path in cache().iterdir()] == ["timemachine.txt"]
    monkeypatch.setattr("urllib.request.urlopen", None)
    assert find_text("auto").name == "The Time Machine"


def test_a_cache_that_cant_be_written_is_no_error(nowhere, tmp_path, monkeypatch):
    content = b"text"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GATEFUSE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(corpora, "SHA1", hashlib.sha1(content).hexdigest())
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **options: io.BytesIO(content))
    assert time_machine().content == "text"


def test_the_file_that_the_environment_names(nowhere, tmp_path, monkeypatch):
    monkeypatch.setenv(PLACE, str(tmp_path / "missing.txt"))
    with pytest.raises(OSError, match=r"missing\.txt"):
        time_machine()
    (tmp_path / "missing.txt").write_bytes(b"something else")
    with pytest.raises(ValueError, match="The Time Machine must have the sha1"):
        find_text("auto")  # a wrong file is not passed over in silence
    assert not nowhere


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", r"text must be in UTF-8\. Got other bytes at 0 of "),
        (b"ab\0c", r"text must not be binary\. Got a zero byte in "),
        (b"", r"text must have letters\. Got none in "),
        (b"12 34\n", r"text must have letters\. Got none in "),
    ],
)
def test_files_that_hold_no_text(tmp_path, content, message):
    path = tmp_path / "some.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare(find_text(str(path)))


def test_a_corpus_is_numbers(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes("\ufeffb a b\r\nb c\r\n".encode())
    found = prepare(find_text(str(path)), "word", max_tokens=3)
    assert found.vocabulary.names == ["<unk>", "b", "a", "c"]  # of the whole text
    assert found.tokens.tolist() == [1, 2, 1]
    assert prepare(find_text(str(path)), "word", min_freq=2).tokens.tolist() == [1, 0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"max_tokens must be at least 1, or -1 for all\. Got 0\."):
        prepare(find_text(str(path)), max_tokens=0)
    assert len(prepare(python_topics()).vocabulary) >= 28


@pytest.mark.skipif(
    not (os.environ.get(PLACE) or (cache() / "timemachine.txt").exists()), reason="The Time Machine is not here"
)
def test_the_time_machine_is_the_books():
    """Sizes as Dive into Deep Learning prints them in sections 8.2 and 8.3."""
    text = time_machine()
    chars, words = (prepare(text, kind) for kind in KINDS)
    assert (len(chars.tokens), len(chars.vocabulary)) == (170_580, 28)
    assert len(words.vocabulary) == 4580
    assert words.vocabulary.names[1:6] == ["the", "i", "and", "of", "a"]
    assert int((words.tokens == 1).sum()) == 2261

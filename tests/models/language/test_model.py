"""A language model over every network: what it computes, how it is trained, what it writes."""

import io
import math
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import gatefuse
from gatefuse.models.convert import load_layer_state
from gatefuse.models.language.corpus import Text, prepare
from gatefuse.models.language.model import (
    LanguageModel,
    detach,
    generate,
    make_network,
    network_names,
    stream,
    unknown_tokens,
)
from gatefuse.models.language.progress import Progress
from gatefuse.models.language.text import Vocabulary
from gatefuse.models.language.training import Point, Settings, Trainer
from gatefuse.models.scratch import D2LLSTM, NaiveLSTM
from tests.support.made_up_cells import ALL
from tests.support.sized_cells import projected_lstm

ABC = "abcdefgh"
SMALL = {"hidden": 16, "batch": 4, "steps": 6}


def corpus(repeats=40, kind="char"):
    return prepare(Text((ABC if kind == "char" else " ".join(ABC) + " ") * repeats, "letters"), kind)


@pytest.mark.parametrize("name", network_names())
def test_every_network_reads_tokens_and_goes_on(name):
    torch.manual_seed(0)
    model = LanguageModel(make_network(name, 9, 16), 9)
    tokens = torch.randint(9, (3, 7))
    logits, _ = model(tokens)
    assert logits.shape == (3, 7, 9)
    first, state = model(tokens[:, :4])
    second, _ = model(tokens[:, 4:], detach(state))
    assert_close(torch.cat([first, second], 1), logits)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.LSTM(9, 16, batch_first=True),
        lambda: nn.GRU(9, 16, bidirectional=True),
        lambda: gatefuse.GRU(9, 16, 2),
        lambda: gatefuse.Recurrent("slstm", 9, 16, batch_first=True),
        lambda: gatefuse.Recurrent(projected_lstm, 9, 16, bidirectional=True, sizes={"projected": 6}),
        lambda: make_network(ALL[0], 9, 16, 2),
        lambda: D2LLSTM(9, 16),
        lambda: NaiveLSTM(9, 16),
    ],
)
def test_every_layer_reads_tokens(network):
    logits, _ = LanguageModel(network(), 9)(torch.randint(9, (3, 7)))
    assert logits.shape == (3, 7, 9)


def test_layer_and_scratch_network_are_one_model():
    layer = LanguageModel(make_network("lstm", 9, 16), 9)
    scratch = LanguageModel(make_network("scratch-d2l-lstm", 9, 16), 9)
    load_layer_state(scratch.network, layer.network.state_dict())
    with torch.no_grad():
        scratch.network.W_hq.copy_(layer.head.weight.T)
        scratch.network.b_q.copy_(layer.head.bias)
    tokens = torch.randint(9, (3, 7))
    assert_close(layer(tokens)[0], scratch(tokens)[0])


def test_embeddings_take_the_place_of_one_hot_tokens():
    model = LanguageModel(make_network("gru", 5, 16), 9, embedding=True)
    logits, _ = model(torch.randint(9, (3, 7)))
    assert logits.shape == (3, 7, 9)
    logits.sum().backward()
    assert model.embedding.weight.grad.any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LanguageModel(nn.Linear(9, 9), 9), TypeError, "network must be a recurrent layer .* Got Linear"),
        (lambda: LanguageModel(nn.LSTMCell(9, 9), 9), TypeError, "network must be a recurrent layer .* Got LSTMCell"),
        (lambda: LanguageModel(nn.LSTM(8, 9), 9), ValueError, "network must take 9 inputs, .* Got 8"),
        (lambda: LanguageModel(D2LLSTM(9, 16, 8), 9), ValueError, "network must have 9 outputs, .* Got 8"),
        (
            lambda: make_network("nothing", 9, 16),
            ValueError,
            "network must be one of .*, scratch-.* Got 'nothing'",
        ),
        (
            lambda: make_network("scratch-d2l-gru", 9, 16, 2),
            ValueError,
            "must have one layer and the driver auto. Got 2",
        ),
        (lambda: Settings(hidden=0), ValueError, "hidden must be at least 1. Got 0"),
        (lambda: Settings(lr=0), ValueError, "lr must be above 0. Got 0"),
        (lambda: Settings(clip=math.nan), ValueError, "clip must be above 0. Got nan"),
        (lambda: Settings(embedding=-1), ValueError, "embedding must not be negative. Got -1"),
        (lambda: Settings(seed=-1), ValueError, "seed must be from 0 to 4294967295. Got -1"),
        (lambda: Settings(order="none"), ValueError, "order must be one of sequential, random. Got 'none'"),
        (lambda: Trainer(corpus(1), Settings()), ValueError, "text must have at least 1156 tokens .* Got 8"),
        (
            lambda: Trainer(corpus(), Settings("scratch-d2l-lstm", embedding=4, **SMALL)),
            ValueError,
            "must have one-hot tokens. Got an embedding of 4",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize("kind", ["char", "word"])
def test_training_learns_a_text_and_generation_repeats_it(kind, order):
    trainer = Trainer(corpus(60, kind), Settings("lstm", lr=4.0, order=order, **SMALL))
    points = train(trainer, 25)
    assert [point.epoch for point in points] == list(range(1, 26))
    assert points[0].perplexity > 3
    assert points[-1].perplexity < 1.1
    assert all(point.tokens_per_second > 0 for point in points)
    blank = " " if kind == "word" else ""
    words = generate(trainer.model, trainer.corpus.vocabulary, blank.join("cde"), 6, kind)
    assert words == blank.join("cdefghabc")


def test_perplexity_is_exp_of_the_mean_cross_entropy():
    """Of a model that says all tokens are equally likely it is their number."""
    trainer = Trainer(corpus(), Settings(lr=1e-30, **SMALL))
    with torch.no_grad():
        trainer.model.head.weight.zero_()
        trainer.model.head.bias.zero_()
    assert trainer.epoch().perplexity == pytest.approx(9)


def test_gradients_are_clipped():
    """The first step is as long as the clip where the learning rate is one and the gradient is longer."""
    trainer = Trainer(corpus(5), Settings(clip=1e-4, **SMALL))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.epoch()
    steps = torch.cat([(p - b).flatten() for p, b in zip(trainer.model.parameters(), before, strict=True)])
    assert steps.norm().item() == pytest.approx(1e-4, rel=1e-2)


def test_state_goes_on_in_sequential_order_only(monkeypatch):
    for order, kept in (("sequential", [False, True, True]), ("random", [False, False, False])):
        trainer = Trainer(corpus(12), Settings(order=order, **SMALL))
        seen = []
        forward = trainer.model.forward

        def watch(tokens, state, seen=seen, forward=forward):
            seen.append(state is not None)
            return forward(tokens, state)

        monkeypatch.setattr(trainer.model, "forward", watch)
        trainer.epoch()
        assert seen[:3] == kept


def train(trainer, epochs):
    return [trainer.epoch() for _ in range(epochs)]


def test_a_loss_that_is_not_finite():
    trainer = Trainer(corpus(), Settings(lr=1e38, clip=1e38, **SMALL))
    with pytest.raises(
        ValueError, match=r"loss and weights must stay finite\. Got a loss of .* in epoch \d with lr 1e\+38\."
    ):
        train(trainer, 9)


def test_making_a_trainer_leaves_the_callers_draws():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Trainer(corpus(), Settings(**SMALL)).epoch()
    assert torch.equal(torch.rand(2), expected)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LanguageModel(make_network("gru", 9, 16), 9)


def test_sampling_follows_the_seed_and_the_temperature(model):
    vocabulary = Vocabulary(ABC)

    def write(temperature, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return generate(model, vocabulary, "ab", 40, temperature=temperature, generator=generator)

    assert write(1.0) == write(1.0)
    assert write(1.0) != write(1.0, seed=1)
    assert write(1e-320) == write(1e-6) == write(0.0) == generate(model, vocabulary, "ab", 40)
    assert write(1.0).startswith("ab")


def test_generation_reads_the_prefix_once_and_then_one_token_a_step(model, monkeypatch):
    read = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda tokens, state: (read.append(tokens.shape), forward(tokens, state))[1])
    assert len(list(stream(model, Vocabulary(ABC), list("abc"), 4))) == 4
    assert read == [(1, 3), (1, 1), (1, 1), (1, 1)]


def test_unknown_tokens_of_a_prefix_are_unk(model):
    vocabulary = Vocabulary(ABC)
    assert generate(model, vocabulary, "A7b", 0) == "a<unk>b"
    assert unknown_tokens("a7b77!", vocabulary) == ["7", "!"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix": ""}, r"prefix must have at least one token\. Got ''\."),
        ({"count": -1}, r"count and temperature must be finite and not negative\. Got -1 and 0\.0\."),
        ({"temperature": math.nan}, r"count and temperature must be finite and not negative\. Got 5 and nan\."),
    ],
)
def test_what_generation_refuses(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(model, Vocabulary(ABC), **{"prefix": "a", "count": 5, **arguments})


def test_who_reads_in_both_directions_cant_write():
    model = LanguageModel(nn.GRU(9, 4, bidirectional=True), 9)
    with pytest.raises(ValueError, match=r"a model that writes must read in one direction\. Got one of both\."):
        generate(model, Vocabulary(ABC), "a", 3)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(stream, epochs=20, done=0):
    with Progress(done, epochs, stream=stream) as progress:
        for number in range(done + 1, epochs + 1):
            progress.show(Point(number, 1.5, 1000.0))
    return stream.getvalue()


def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch):
    assert show(io.StringIO()).splitlines() == [
        f"epoch {n} of 20: perplexity 1.500, 1000 tokens/s" for n in range(2, 21, 2)
    ]
    pytest.importorskip("tqdm")
    said = show(Terminal(), done=10)
    assert "20/20" in said
    assert "perplexity 1.500, 1000 tokens/s" in said
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert show(Terminal()) == show(io.StringIO())

"""What the texts that this project began from show and no other test does. docs/seeds.md lists them all."""

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import gatefuse
from gatefuse.bench.language.runs import CHARACTERS, MAX_TOKENS, SCRATCH, WORDS
from gatefuse.models.language.corpus import Text, prepare
from gatefuse.models.language.model import LanguageModel, generate
from gatefuse.models.language.text import join, tokenize
from gatefuse.models.language.training import Settings, Trainer
from gatefuse.models.scratch import D2LGRU, D2LLSTM, FusedLSTM, NaiveLSTM

V, H, B, T = 7, 5, 3, 4
ROWS = Path(__file__).resolve().parents[2] / "reports" / "language" / "rows" / "runs.csv"


def shapes(network):
    return {name: tuple(p.shape) for name, p in network.named_parameters()}


@pytest.mark.parametrize(("kind", "gates"), [(D2LLSTM, "ifoc"), (D2LGRU, "zrh")])
def test_the_books_networks_hold_its_parameters_in_its_order(kind, gates):
    expected = {}
    for gate in gates:
        expected |= {f"W_x{gate}": (V, H), f"W_h{gate}": (H, H), f"b_{gate}": (H,)}
    expected |= {"W_hq": (H, V), "b_q": (V,)}
    assert list(shapes(kind(V, H, V)).items()) == list(expected.items())


def test_the_articles_networks_hold_its_parameters_and_take_batches_first():
    naive = {}
    for gate in "ifco":
        naive |= {f"U_{gate}": (V, H), f"V_{gate}": (H, H), f"b_{gate}": (H,)}
    assert list(shapes(NaiveLSTM(V, H)).items()) == list(naive.items())
    assert shapes(FusedLSTM(V, H)) == {"W": (V, 4 * H), "U": (H, 4 * H), "bias": (4 * H,)}
    for network in (NaiveLSTM(V, H), FusedLSTM(V, H), FusedLSTM(V, H, peephole=True)):
        hidden, (h, c) = network(torch.randn(B, T, V))
        assert (hidden.shape, h.shape, c.shape) == ((B, T, H), (B, H), (B, H))
        assert torch.equal(hidden[:, -1], h)


class Counted(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("network", "products"),
    [
        (NaiveLSTM(V, H), 8),
        (FusedLSTM(V, H), 2),
        (FusedLSTM(V, H, peephole=True), 3),  # the article multiplies x by W a second time
    ],
)
def test_products_of_a_step(network, products):
    with Counted() as counted:
        network(torch.randn(B, T, V))
    assert sum(counted.calls[name] for name in ("mm", "addmm", "bmm")) == products * T


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, gatefuse.LSTM, gatefuse.GRU])
def test_the_books_model_around_a_layer(kind):
    """One-hot tokens by time, the layer, and one linear layer over all steps' outputs; from zero states."""
    torch.manual_seed(0)
    model = LanguageModel(kind(V, H), V)
    X = torch.randint(V, (B, T))
    logits, state = model(X)
    Y, expected_state = model.network(one_hot(X.T, V).float())
    expected = model.head(Y.reshape(-1, H))  # (T * B, V), as the book has them
    assert_close(logits.transpose(0, 1).reshape(-1, V), expected)
    assert_close(state, expected_state)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_books_layer_trains_in_the_books_loop(kind):
    corpus = prepare(Text("the time machine " * 60, "a title"))
    trainer = Trainer(corpus, Settings(kind.__name__.lower(), hidden=16, batch=4, steps=6, lr=4.0))
    trainer.model.network = kind(len(corpus.vocabulary), 16)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=4.0)
    first = trainer.epoch().perplexity
    for _ in range(20):
        last = trainer.epoch().perplexity
    assert last < 1.2 < first


def test_the_books_settings_are_the_defaults():
    s = Settings()
    assert (s.batch, s.steps, s.hidden, s.lr, s.clip, s.layers, s.embedding) == (32, 35, 256, 1.0, 1.0, 1, 0)
    assert s.order == "sequential"
    assert MAX_TOKENS == 10_000
    alike = {run.name: (run.settings.batch, run.settings.steps, run.settings.hidden) for run in CHARACTERS}
    assert set(alike.values()) == {(32, 35, 256)}
    assert {run.settings.embedding for run in CHARACTERS} == {0}


def test_published_perplexities_stand_beside_the_measured_ones():
    runs = pd.read_csv(ROWS).set_index("name")
    published = {run.name: run.published for run in (*CHARACTERS, WORDS)}
    measured = runs[runs["token"] == "char"]
    assert SCRATCH.name in measured.index
    assert set(runs.index) <= set(published)
    for name, row in measured.iterrows():
        assert row["published"] == published[name] > 0
        assert (row["vocabulary"], row["tokens"], row["epochs"]) == (28, 10_000, 500)
        assert row["perplexity"] <= row["goal"], name


def test_words_are_read_in_ten_steps_and_joined_by_blanks():
    assert (WORDS.kind, WORDS.settings.steps) == ("word", 10)
    corpus = prepare(Text("the time traveller for so it will be convenient to speak of him " * 30, "a line"), "word")
    trainer = Trainer(corpus, Settings("lstm", hidden=32, batch=4, steps=WORDS.settings.steps, lr=4.0))
    for _ in range(25):
        trainer.epoch()
    written = generate(trainer.model.eval(), corpus.vocabulary, "time traveller", 5, "word")
    assert written == "time traveller for so it will be"


@pytest.mark.parametrize("kind", ["char", "word"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_writing_is_the_readers_loop(name, kind):
    """Read the prefix a token at a time and write nothing; then take the likeliest token, read it, and so on."""
    torch.manual_seed(0)
    corpus = prepare(Text("to speak of him was to speak of time " * 3, "a line"), kind)
    vocabulary = corpus.vocabulary
    model = LanguageModel(gatefuse.Recurrent(name, len(vocabulary), 16), len(vocabulary))
    prefix = "to speak"
    numbers = [vocabulary[token] for token in tokenize([prefix], kind)]
    state, written = None, numbers[:1]
    for number in numbers[1:]:
        _, state = model(torch.tensor([[written[-1]]]), state)
        written.append(number)
    for _ in range(12):
        logits, state = model(torch.tensor([[written[-1]]]), state)
        written.append(int(logits[0, -1].argmax()))
    assert generate(model, vocabulary, prefix, 12, kind) == join(vocabulary.decode(written), kind)


def test_the_interface_pages_example():
    """10 texts of 20 words out of 100, embeddings of 30 numbers, 18 units, batch first."""
    torch.manual_seed(0)
    words, embedding = torch.randint(0, 100, (10, 20)), nn.Embedding(100, 30)
    theirs = nn.LSTM(input_size=30, hidden_size=18, num_layers=1, batch_first=True)
    ours = gatefuse.LSTM(input_size=30, hidden_size=18, num_layers=1, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    output, (h_n, c_n) = ours(embedding(words))
    assert (output.shape, h_n.shape, c_n.shape) == ((10, 20, 18), (1, 10, 18), (1, 10, 18))
    assert_close((output, (h_n, c_n)), theirs(embedding(words)))

"""Models that are written as classes: what is followed, and what is refused since it can't be known what it does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gatefuse
from gatefuse import export_object
from tests.support.exported import Library


class Base(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.inner = nn.Linear(4, 5)
        self.rnn = gatefuse.LSTM(5, 6, **options)
        self.second = nn.GRU(6, 6, **options)
        self.head = nn.Linear(6, 2)
        self.drop = nn.Dropout(0.5)


class Plain(Base):
    def forward(self, x, state=None):
        x = F.relu(self.inner(x), inplace=True)
        y, state = self.rnn(x, state)
        y = self.drop(y).tanh()
        y, _ = self.second(y)
        return torch.sigmoid(self.head(y)), state


class Inner(Base):
    def forward(self, x):
        return self.rnn(F.silu(self.inner(x)))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.body = nn.Sequential(Plain(), nn.Identity())
        self.inner = Plain(batch_first=True)

    def forward(self, x):
        return self.inner(self.words(x))[0]


def steps(model, x):
    given = x[None] if any(getattr(m, "batch_first", False) for m in model.modules()) else x[:, None]
    with torch.no_grad():
        out = model(given)
    out = out[0] if isinstance(out, tuple) else out
    return out.flatten(0, 1)


@pytest.mark.parametrize("make", [Plain, lambda: Plain(batch_first=True), Inner, Nested])
def test_a_forward_that_runs_modules_one_after_the_other(make, tmp_path):
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randint(9, (7,)) if make is Nested else torch.randn(7, 4)
    expected = steps(model, x)
    y = torch.empty_like(expected)
    Library(model, tmp_path).run(x.int() if make is Nested else x, y)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


class Skips(Base):
    def forward(self, x):
        x = self.inner(x)
        return self.head(x + self.rnn(x)[0][..., :5])


class Late(Base):
    def forward(self, x):
        x = self.inner(x)
        pair = self.rnn(x)
        return self.inner(x), pair


class Ends(Base):
    def forward(self, x):
        return self.head(self.rnn(self.inner(x))[0][-1])


class OfState(Base):
    def forward(self, x):
        _, (h, _) = self.rnn(self.inner(x))
        return self.head(h)


class Lengths(Base):
    def forward(self, x, lengths=None):
        return self.rnn(self.inner(x), lengths=lengths)


class Decides(Base):
    def forward(self, x):
        return self.rnn(self.inner(x) if x.sum() > 0 else self.inner(-x))


class Scaled(Base):
    def forward(self, x):
        return self.rnn(F.leaky_relu(self.inner(x), 0.5))


class Drops(Base):
    def forward(self, x):
        return self.head(F.dropout(self.rnn(self.inner(x))[0], 0.5, self.training))


class Convolves(Base):
    def __init__(self):
        super().__init__()
        self.filter = nn.Conv1d(6, 6, 1)

    def forward(self, x):
        return self.filter(self.rnn(self.inner(x))[0])


class Turned(Base):
    """Sees that it is being followed, and does another thing when it isn't."""

    def forward(self, x):
        output, state = self.rnn(self.inner(x))
        if isinstance(x, torch.fx.Proxy):
            return output, state
        return output * 2, state


class Whole(Base):
    def forward(self, x):
        return {"y": self.rnn(self.inner(x))[0]}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Skips, "runs .*getitem"),
        (Late, "runs .*inner"),
        (Ends, "runs .*getitem"),
        (OfState, "runs .*head"),
        (Lengths, "runs .*lengths"),
        (Decides, "can't be followed: TraceError"),
        (Scaled, "runs .*leaky_relu"),
        (Drops, "runs .*dropout"),
        (Turned, "gives other numbers than these modules do"),
        (Whole, "returns {'y'"),
    ],
)
def test_what_can_not_be_followed_is_said(kind, text, tmp_path):
    with pytest.raises(TypeError, match=rf"model must run modules one .*Got {kind.__name__}, which {text}"):
        export_object(kind().eval(), tmp_path / "net.o")
    assert not list(tmp_path.iterdir())


def test_modules_are_named_by_where_they_are(tmp_path):
    with pytest.raises(TypeError, match=r"model\.filter must be one of .*Got Conv1d."):
        export_object(Convolves().eval(), tmp_path / "net.o")
    with pytest.raises(ValueError, match=r"model\.drop must be in eval mode, .*Got Dropout in training mode"):
        export_object(Plain(), tmp_path / "net.o")

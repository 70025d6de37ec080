"""The shapes that are measured, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random

from gatefuse.kernels.cells import find_cell


@dataclass(frozen=True)
class Shape:
    """One network over one batch.

    Attributes:
        cell: name of a cell that gatefuse ships.
        H, B, T, I: hidden size, batch, steps, input size.
        layers, bidirectional: as torch.nn's.
        name: the project or purpose the shape comes from; "" for points of a grid.
        fill: the mean length of the samples over T; 1.0 where all are full.
        ragged: the network is told each sample's length, also where all are full.
        heads: parts that R is of, each of H / heads units.
    """

    cell: str
    H: int
    B: int
    T: int
    I: int
    layers: int = 1
    bidirectional: bool = False
    name: str = ""
    fill: float = 1.0
    ragged: bool = False
    heads: int = 1

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Each sample's length, of which the first is T and the mean fill * T; () where the network isn't told.

        The same numbers for the same shape, drawn evenly around the mean of those behind the first.
        """
        if not self.ragged:
            return ()
        rest = round(self.fill * self.T * self.B) - self.T
        others = self.B - 1
        if not others <= rest <= others * self.T:
            raise ValueError(f"fill must leave each sample a step and fill none over T. Got {self.fill} for {self.B}.")
        mean = rest / others if others else 0.0
        spread = min(mean - 1, self.T - mean)
        draw = Random(self.T * self.B)
        found = [round(draw.uniform(mean - spread, mean + spread)) for _ in range(others)]
        k = 0
        while (missing := rest - sum(found)) != 0:
            changed = found[k % others] + (1 if missing > 0 else -1)
            if 1 <= changed <= self.T:
                found[k % others] = changed
            k += 1
        return (self.T, *found)

    @property
    def flop(self) -> float:
        """Operations of the matrix products of one training call: forward, and twice as many backward."""
        cell = find_cell(self.cell)
        G, M = len(cell.input_gates), len(cell.recurrent_gates)
        inputs = [self.I] + [self.H * self.directions] * (self.layers - 1)
        rows = self.T * self.B * self.directions
        return 3.0 * sum(2.0 * rows * self.H * (G * i + M * self.H / self.heads) for i in inputs)

    @property
    def bytes(self) -> float:
        """What a plain loop holds in float32 between forward and backward, roughly: some 3 G + 4 vectors a step."""
        G = len(find_cell(self.cell).gates)
        D = self.directions * self.layers
        weights = G * self.H * (self.I + self.H / self.heads)
        return 4.0 * (self.T * self.B * (self.I + D * self.H * (3 * G + 4)) + 4.0 * D * weights)

    @property
    def title(self) -> str:
        """``lstm H256 B32 T35 I28``, with layers, directions, heads and fill where they are not plain."""
        depth = f" x{self.layers}" if self.layers > 1 else ""
        heads = f" {self.heads} heads" if self.heads > 1 else ""
        full = f" {self.fill:.0%} full" if self.ragged else ""
        sizes = f"H{self.H} B{self.B} T{self.T} I{self.I}"
        return f"{self.cell}{depth}{' bi' if self.bidirectional else ''} {sizes}{heads}{full}"


# For the tests of the harness itself.
SMOKE = [Shape("lstm", 8, 2, 3, 4), Shape("gru_reset_first", 4, 1, 2, 4)]

# Minutes, not hours: one line along each axis through a middle, the shapes people ask about, and every other cell.
QUICK = [
    Shape("lstm", 16, 1, 100, 16),
    Shape("lstm", 64, 1, 1, 64),
    Shape("lstm", 64, 1, 100, 64, name="small and alone"),
    Shape("lstm", 64, 32, 35, 64),
    Shape("lstm", 100, 8, 35, 100),
    Shape("lstm", 256, 1, 35, 256),
    Shape("lstm", 256, 32, 35, 28, name="d2l"),
    Shape("gru", 64, 1, 100, 64),
    Shape("gru", 256, 32, 35, 28, name="d2l"),
    Shape("gru_reset_first", 64, 1, 100, 64),
    Shape("gru_reset_first", 256, 32, 35, 28, name="d2l"),
    Shape("elman", 64, 1, 100, 64),
    Shape("elman", 256, 32, 35, 28, name="d2l"),
    Shape("peephole_lstm", 64, 1, 100, 64),
    Shape("peephole_lstm", 256, 32, 35, 256),
    Shape("article_peephole_lstm", 64, 8, 35, 64),
    Shape("slstm", 64, 8, 35, 64),
    Shape("slstm", 256, 8, 35, 256, name="xLSTM", heads=4),
    Shape("lstm", 64, 8, 35, 64),
    Shape("cifg_lstm", 64, 8, 35, 64),
    Shape("minimal_gated_unit", 64, 8, 35, 64),
    Shape("li_gru", 64, 8, 35, 64),
    Shape("ind_rnn", 64, 8, 35, 64),
    Shape("min_gru", 256, 32, 1000, 256, name="no recurrent weights"),
    Shape("min_lstm", 64, 8, 35, 64),
    Shape("sru", 64, 8, 35, 64),
    Shape("augru", 64, 8, 35, 64),
    Shape("gru_d", 64, 8, 35, 64),
    Shape("cfc", 64, 8, 35, 64),
    Shape("layer_norm_lstm", 64, 8, 35, 64),
    Shape("layer_norm_gru", 64, 8, 35, 64),
]
# In 16 bits, in which torch has fast code for an LSTM in bfloat16 alone, on some CPUs.
HALF = [
    *(Shape("lstm", H, B, 35, H) for H, B in ((64, 1), (64, 32), (256, 1), (256, 32), (512, 32))),
    *(Shape("gru", H, B, 35, H) for H, B in ((64, 1), (256, 32))),
    *(Shape(cell, 256, 32, 35, 256) for cell in ("elman", "gru_reset_first", "peephole_lstm")),
    Shape("slstm", 64, 8, 35, 64),
]
QUICK_GPU = [
    *(Shape("lstm", H, B, 128, H) for H, B in ((128, 32), (512, 1), (512, 64), (1024, 64), (2048, 64))),
    Shape("lstm", 512, 64, 512, 512),
    *(Shape(cell, H, 64, 128, H) for cell in ("gru", "gru_reset_first", "peephole_lstm") for H in (512, 1024)),
    Shape("slstm", 512, 64, 128, 512),
    Shape("slstm", 512, 64, 128, 512, name="xLSTM", heads=4),
    Shape("elman", 512, 64, 128, 512),
]


# What is wanted of a GPU that is at hand for minutes: each kernel where it is at its best, cuDNN's own sizes, an H
# that is no multiple of 8, cells whose step has other stages, and one that cuDNN doesn't know.
FIRST = [
    *(Shape("lstm", H, B, 128, H) for H, B in ((512, 64), (1024, 64), (256, 16), (128, 32), (768, 16), (650, 64))),
    *(Shape(cell, 512, 64, 128, 512) for cell in ("gru", "gru_reset_first")),
]


def full() -> Iterator[Shape]:
    """A grid for the cells that torch has too, lines through its middle for the others; powers of two and others."""
    sizes = (16, 64, 100, 256, 512, 1000, 1024, 2048, 4096)
    batches = (1, 8, 32, 100, 512, 4096)
    lengths = (1, 35, 128, 1000, 2048)
    for cell in ("lstm", "gru"):
        for H, B, T in product(sizes, batches, lengths):
            yield Shape(cell, H, B, T, H)
    for cell in ("gru_reset_first", "elman", "elman_relu", "peephole_lstm", "article_peephole_lstm", "slstm", "sru"):
        yield from (Shape(cell, H, 32, 128, H) for H in sizes)
        yield from (Shape(cell, 256, B, 128, 256) for B in batches)
        yield from (Shape(cell, 256, 32, T, 256) for T in lengths)


# Networks in use. Where a project leaves the input size open it is taken as the hidden size.
REAL = [
    Shape("lstm", 512, 64, 100, 512, name="fastrnns"),
    Shape("lstm", 256, 32, 35, 28, name="d2l"),
    Shape("lstm", 256, 1, 1, 28, name="d2l, generating"),
    Shape("gru", 256, 32, 35, 28, name="d2l GRU"),
    Shape("gru_reset_first", 256, 32, 35, 28, name="d2l GRU from scratch"),
    Shape("lstm", 1150, 80, 70, 400, name="AWD-LSTM, layer 1"),
    Shape("lstm", 1150, 80, 70, 1150, name="AWD-LSTM, layer 2"),
    Shape("lstm", 400, 80, 70, 1150, name="AWD-LSTM, layer 3"),
    Shape("lstm", 1840, 128, 200, 400, layers=3, name="enwik8"),
    Shape("lstm", 128, 8, 128, 512, name="CleanRL"),
    Shape("lstm", 256, 8, 128, 256, name="stable-baselines3, 8 environments"),
    Shape("lstm", 256, 8, 1, 256, name="stable-baselines3, acting"),
    Shape("lstm", 256, 4096, 24, 256, name="rsl_rl"),
    Shape("lstm", 256, 4096, 1, 256, name="rsl_rl, acting"),
    Shape("lstm", 640, 16, 100, 640, name="NeMo RNN-T prediction"),
    Shape("lstm", 640, 1, 1, 640, name="NeMo RNN-T, decoding"),
    Shape("lstm", 1024, 8, 1000, 1024, layers=4, bidirectional=True, name="SpeechBrain", fill=0.75, ragged=True),
    Shape("lstm", 512, 8, 400, 512, layers=4, bidirectional=True, name="TIMIT"),
    Shape("lstm", 256, 16, 258, 512, layers=3, bidirectional=True, name="open-unmix"),
    Shape("lstm", 128, 1, 1, 128, name="silero-vad"),
    Shape("gru", 256, 1, 1, 256, layers=3, name="DeepFilterNet"),
    Shape("peephole_lstm", 200, 1, 400, 48, layers=3, bidirectional=True, name="kraken"),
    Shape("lstm", 20, 256, 365, 32, name="neuralhydrology"),
    Shape("lstm", 40, 32, 200, 40, layers=2, name="DeepAR"),
    Shape("lstm", 40, 3200, 200, 40, layers=2, name="DeepAR, sampling"),
    Shape("lstm", 16, 64, 100, 16, name="TFT"),
    Shape("lstm", 128, 128, 100, 1, layers=2, name="neuralforecast, small"),
    Shape("lstm", 200, 1024, 100, 1, layers=2, name="neuralforecast, large"),
    Shape("lstm", 768, 16, 1024, 768, name="FlashRNN"),
    Shape("lstm", 768, 2, 256, 768, name="FlashRNN, smallest batch"),
    Shape("lstm", 768, 256, 256, 768, name="FlashRNN, largest batch"),
    Shape("slstm", 768, 16, 1024, 768, name="FlashRNN sLSTM"),
]

# Where cuDNN changes its algorithm. Its persistent kernel is for float16, one layer and direction of an LSTM, H and I
# multiples of 128 up to 1024, B a multiple of 8 up to 128; a kernel for small H ends at 192 forward and 128 backward.
_LSTM_REGIMES = {
    "persistent in float16": (768, 16), "B a multiple of 8": (768, 8), "B no multiple of 8": (768, 9),
    "small H in both passes": (128, 16), "small H forward": (192, 16), "H beyond the small": (256, 16),
    "H 512, B 64": (512, 64), "H 1024, B 64": (1024, 64), "H beyond 1024": (1152, 64), "B beyond 128": (512, 136),
}  # fmt: skip
REGIMES = [
    *(Shape("lstm", H, B, 256, H, name=name) for name, (H, B) in _LSTM_REGIMES.items()),
    Shape("lstm", 768, 16, 256, 768, bidirectional=True, name="both directions"),
    Shape("lstm", 768, 16, 256, 768, layers=2, name="two layers"),
    *(Shape("gru", H, B, 256, H, name=f"GRU, H {H}, B {B}") for H, B in ((256, 16), (768, 16), (1024, 64))),
]
# On a CPU these are sizes next to each other, and no more.
REGIMES_CPU = [
    *(Shape("lstm", H, 16, 35, H) for H in (128, 192, 256)),
    *(Shape("lstm", 128, B, 35, 128) for B in (8, 9)),
    Shape("lstm", 128, 16, 35, 128, bidirectional=True),
    Shape("gru", 128, 16, 35, 128),
]

_FILLS = (0.25, 0.5, 0.75, 1.0)
LENGTHS = [
    Shape(cell, H, B, T, I, layers, both, fill=fill, ragged=True)
    for cell, H, B, T, I, layers, both in (
        ("lstm", 512, 64, 512, 512, 1, False),
        ("gru", 512, 64, 512, 512, 1, False),
        ("lstm", 512, 16, 512, 512, 2, True),
        ("lstm", 128, 32, 1000, 128, 1, False),
        ("peephole_lstm", 512, 64, 512, 512, 1, False),
        ("lstm", 256, 16, 2000, 256, 1, False),
    )
    for fill in _FILLS
]
LENGTHS_CPU = [
    Shape(cell, H, B, T, H, layers, both, fill=fill, ragged=True)
    for cell, H, B, T, layers, both in (
        ("lstm", 64, 16, 100, 1, False),
        ("gru", 64, 16, 100, 1, False),
        ("gru_reset_first", 64, 16, 100, 1, False),
        ("lstm", 64, 16, 100, 2, True),
        ("lstm", 256, 32, 35, 1, False),
    )
    for fill in _FILLS
]

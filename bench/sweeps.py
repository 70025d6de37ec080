"""The shapes that are measured, as data. A sweep is a list of shapes; a group is a shape with dtype and mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from gatefuse.kernels.cells import find_cell

MODES = ("forward", "training")
SWEEPS = ("quick", "full", "real", "smoke")

# On a GPU; a CPU measures float32 alone.
DTYPES = {
    "quick": ("float32", "bfloat16"),
    "full": ("float32", "bfloat16"),
    "real": ("float32", "float16", "bfloat16"),
    "smoke": ("float32",),
}
# A full sweep's limits by device: bytes that one contender's training call may hold, operations of one such call.
FULL_BYTES = {"cpu": 2e9, "cuda": 24e9}
FULL_FLOP = {"cpu": 0.1e12, "cuda": 100e12}
# A real shape on a CPU: more would take minutes a group.
REAL_CPU_FLOP = 0.1e12


@dataclass(frozen=True)
class Shape:
    """One network over one batch.

    Attributes:
        cell: name of a cell that gatefuse ships.
        H, B, T, I: hidden size, batch, steps, input size.
        layers, bidirectional: as torch.nn's.
        name: the project or purpose the shape comes from; "" for points of a grid.
    """

    cell: str
    H: int
    B: int
    T: int
    I: int
    layers: int = 1
    bidirectional: bool = False
    name: str = ""

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def flop(self) -> float:
        """Operations of the matrix products of one training call: forward, and twice as many backward."""
        G = len(find_cell(self.cell).gates)
        inputs = [self.I] + [self.H * self.directions] * (self.layers - 1)
        return 3.0 * sum(2.0 * self.T * self.B * G * self.H * (i + self.H) * self.directions for i in inputs)

    @property
    def bytes(self) -> float:
        """What a plain loop holds in float32 between forward and backward, roughly: some 3 G + 4 vectors a step."""
        G = len(find_cell(self.cell).gates)
        D = self.directions * self.layers
        weights = G * self.H * (self.I + self.H)
        return 4.0 * (self.T * self.B * (self.I + D * self.H * (3 * G + 4)) + 4.0 * D * weights)

    @property
    def title(self) -> str:
        """``lstm H256 B32 T35 I28``, with layers and directions where there are more than one."""
        depth = f" x{self.layers}" if self.layers > 1 else ""
        return f"{self.cell}{depth}{' bi' if self.bidirectional else ''} H{self.H} B{self.B} T{self.T} I{self.I}"


@dataclass(frozen=True)
class Group:
    """What is measured against each other: one shape, dtype (torch's name) and mode, by all contenders."""

    shape: Shape
    dtype: str
    mode: str

    @property
    def title(self) -> str:
        name = f" ({self.shape.name})" if self.shape.name else ""
        return f"{self.shape.title} {self.dtype} {self.mode}{name}"


def groups(sweep: str, device: str) -> list[Group]:
    """All groups of a sweep on a kind of device, ``"cpu"`` or ``"cuda"``; the modes of a shape follow each other.

    Raises:
        ValueError: no sweep has that name.
    """
    if sweep not in SWEEPS:
        raise ValueError(f"sweep must be one of {', '.join(SWEEPS)}. Got {sweep!r}.")
    dtypes = DTYPES[sweep] if device == "cuda" else ("float32",)
    return [Group(shape, dtype, mode) for dtype in dtypes for shape in shapes(sweep, device) for mode in MODES]


def shapes(sweep: str, device: str) -> list[Shape]:
    """The shapes of a sweep on a kind of device, each once."""
    found: dict[str, Iterable[Shape]] = {
        "quick": _QUICK if device == "cpu" else _QUICK + _QUICK_GPU,
        "full": (s for s in _full() if s.bytes <= FULL_BYTES[device] and s.flop <= FULL_FLOP[device]),
        "real": (s for s in _REAL if device != "cpu" or s.flop <= REAL_CPU_FLOP),
        "smoke": _SMOKE,
    }
    return list(dict.fromkeys(found[sweep]))


# For the tests of the harness itself.
_SMOKE = [Shape("lstm", 8, 2, 3, 4), Shape("gru_reset_first", 4, 1, 2, 4)]

# Minutes, not hours: one line along each axis through a middle, the shapes people ask about, and every other cell.
_QUICK = [
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
]
_QUICK_GPU = [
    *(Shape("lstm", H, B, 128, H) for H, B in ((128, 32), (512, 1), (512, 64), (1024, 64), (2048, 64))),
    Shape("lstm", 512, 64, 512, 512),
    *(Shape(cell, H, 64, 128, H) for cell in ("gru", "gru_reset_first", "peephole_lstm") for H in (512, 1024)),
    Shape("slstm", 512, 64, 128, 512),
    Shape("elman", 512, 64, 128, 512),
]


def _full() -> Iterator[Shape]:
    """A grid for the cells that torch has too, lines through its middle for the others; powers of two and others."""
    sizes = (16, 64, 100, 256, 512, 1000, 1024, 2048, 4096)
    batches = (1, 8, 32, 100, 512, 4096)
    lengths = (1, 35, 128, 1000, 2048)
    for cell in ("lstm", "gru"):
        for H, B, T in product(sizes, batches, lengths):
            yield Shape(cell, H, B, T, H)
    for cell in ("gru_reset_first", "elman", "elman_relu", "peephole_lstm", "article_peephole_lstm", "slstm"):
        yield from (Shape(cell, H, 32, 128, H) for H in sizes)
        yield from (Shape(cell, 256, B, 128, 256) for B in batches)
        yield from (Shape(cell, 256, 32, T, 256) for T in lengths)


# Networks in use. Where a project leaves the input size open it is taken as the hidden size.
_REAL = [
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
    Shape("lstm", 1024, 8, 1000, 1024, layers=4, bidirectional=True, name="SpeechBrain"),
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
    Shape("slstm", 768, 16, 1024, 768, name="FlashRNN sLSTM"),
]

"""The language models' report: trained in turns, kept as rows, written as a table and a plot from the rows alone.

rows/runs.csv    a line for each network: what it is, how it ended, where it ran
rows/curve.csv   a line for each of its epochs
rows/speed.csv   tokens a second, as language/speed.py measures them
language.md, language.svg   written from these
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from gatefuse.bench.language import speed
from gatefuse.bench.language.runs import CHARACTERS, LAYERS, MAX_TOKENS, SCRATCH, WORDS, Run, check
from gatefuse.bench.storage.csv_lines import in_words, read_lines, say_left_out, to_numbers
from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.models.language.corpus import Text, prepare
from gatefuse.models.language.model import generate
from gatefuse.models.language.progress import Progress
from gatefuse.models.language.training import Trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gatefuse.bench.report.document.blocks import Block

PREFIX = "time traveller"
# By file, the columns of whole numbers and of others.
NUMBERS = {
    "runs": (
        ("tokens", "vocabulary", "epochs", "hidden", "layers", "embedding", "batch", "steps", "cores", "threads"),
        ("perplexity", "lowest", "goal", "published", "lr", "clip"),
    ),
    "curve": (("epoch",), ("perplexity", "tokens_per_second")),
    "speed": (("threads", "epoch", "cores"), ("tokens_per_second",)),
}


def measure(folder: Path, text: Text, epochs: int, word_epochs: int, seconds: float = float("inf")) -> None:
    """Train the report's networks and write their rows; an epoch of each in turn, so that all meet the same machine.

    Args:
        folder: of the report; the rows go into its folder rows.
        epochs, word_epochs: of the networks over characters, and of the one over words, which comes first.
        seconds: of processors; when they are spent, the networks stop where they are.

    Raises:
        OSError: the rows can't be written.
        ValueError: fewer than one epoch, or a text too short.
    """
    check(text, epochs, word_epochs)
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    stamp = _stamp()
    until = time.process_time() + seconds
    words = _train([WORDS], text, word_epochs, until)
    done = _train([*CHARACTERS], text, epochs, until) | words
    curves = pd.concat([pd.DataFrame(trainer.curve).assign(name=run.name) for run, trainer in done.items()])
    runs = pd.DataFrame([_row(run, trainer) | stamp for run, trainer in done.items()])
    for name, frame in (("curve", curves[["name", "epoch", "perplexity", "tokens_per_second"]]), ("runs", runs)):
        lines = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_whole(folder / "rows" / f"{name}.csv", lines)


def measure_speed(folder: Path, text: Text, epochs: int = 10, threads: Sequence[int] | None = None) -> None:
    """Write rows/speed.csv, of the networks over characters; see speed.measure."""
    networks = {run.name: run.settings for run in (*LAYERS, SCRATCH)}
    corpus = prepare(text, max_tokens=MAX_TOKENS)
    speed.measure(folder / "rows" / "speed.csv", corpus, networks, epochs, threads)


def _stamp() -> dict[str, object]:
    from gatefuse.bench.measure.stamp import take_stamp

    return asdict(take_stamp(torch.device("cpu")))


def _train(runs: list[Run], text: Text, epochs: int, until: float) -> dict[Run, Trainer]:
    """At least one epoch of each."""
    trainers = {run: Trainer(prepare(text, run.kind, run.max_tokens), run.settings) for run in runs}
    with Progress(0, epochs) as progress:
        for number in range(epochs):
            if number and time.process_time() > until:
                break
            points = [trainer.epoch() for trainer in trainers.values()]
            progress.show(points[0])
    return trainers


def _row(run: Run, trainer: Trainer) -> dict[str, object]:
    perplexities = [point.perplexity for point in trainer.curve]
    corpus = trainer.corpus
    return {
        "name": run.name,
        "text": corpus.text.name,
        "token": run.kind,
        "tokens": len(corpus.tokens),
        "vocabulary": len(corpus.vocabulary),
        "epochs": len(perplexities),
        "perplexity": perplexities[-1],
        "lowest": min(perplexities),
        "goal": run.goal,
        "published": run.published,
        "sample": generate(trainer.model.eval(), corpus.vocabulary, PREFIX, 50 if run.kind == "char" else 20, run.kind),
        **asdict(run.settings),
    }


def report(folder: Path) -> Path:
    """Write language.md, and where matplotlib is installed language.svg, from the rows.

    Raises:
        OSError: rows can't be read, or a file can't be written.
        ValueError: a file holds other rows.
    """
    runs, curves, speeds = (_read(folder / "rows" / f"{name}.csv", *NUMBERS[name]) for name in NUMBERS)
    from gatefuse.bench.report.document.blocks import Picture
    from gatefuse.bench.report.document.markdown import document

    try:
        blocks = list(_blocks(runs, curves, speeds))
    except (KeyError, IndexError) as error:
        raise ValueError(f"rows must be those that measure wrote. Got others in {folder / 'rows'}: {error}") from None
    for block in blocks:
        if isinstance(block, Picture):
            write_whole(folder / block.name, block.svg)
    path = folder / "language.md"
    write_whole(path, document(blocks))
    return path


def _read(path: Path, counts: Sequence[str], figures: Sequence[str]) -> pd.DataFrame:
    frame, skipped = read_lines(path, (*counts, *figures))
    frame = to_numbers(frame, skipped, counts, figures)
    say_left_out(path, in_words(skipped))
    return frame


def _blocks(runs: pd.DataFrame, curves: pd.DataFrame, speeds: pd.DataFrame) -> Iterator[Block]:
    from gatefuse.bench.report.document.blocks import Heading, Items, Table
    from gatefuse.bench.report.document.figures import number

    first = runs.iloc[0]
    yield Heading("Language models", 1)
    yield (
        "Written by `python -m gatefuse.models.language report` from the rows beside it; no figure is typed. "
        "`python -m gatefuse.models.language measure` trains the networks anew."
    )
    words = runs[runs["token"] == "word"].iloc[0]
    yield (
        f"Text: {first['text']}. By characters as Dive into Deep Learning, chapter 9, trains on it: "
        f"B {first['batch']}, T {first['steps']}, H {first['hidden']}, learning rate {first['lr']:g}, gradients "
        f"clipped at {first['clip']:g}, one-hot tokens, the first {first['tokens']} of them. By words: T "
        f"{words['steps']}, learned vectors of {words['embedding']} numbers, the first {words['tokens']}. The "
        "book holds no text back, so that a low perplexity means a text learned by heart."
    )
    yield (
        f"Where: {first['cpu']}, {number(first['threads'], 'thread')} on {first['cores']} cores, torch "
        f"{first['torch']}, {first['date']}, commit {first['commit'][:10]} ({first['tree']}); the machine's load was "
        f"{first['load']} when it began. The networks over characters trained in turns of one epoch."
    )
    yield Table(pd.DataFrame([_line(row) for row in runs.to_dict("records")]))
    yield (
        "Perplexity is that of the last epoch, and in brackets the lowest of any. Published is what the book prints "
        "after 500 epochs."
    )
    other = runs[(runs["token"] == first["token"]) & (runs["lr"] != first["lr"])]
    for row in other.to_dict("records"):
        yield f"{row['name']}: as the book does, at a learning rate of {row['lr']:g}."
    if (done := first["epochs"]) < 500:
        yield f"The run had time for {done} of the book's 500 epochs."
    yield from _plot(runs, curves)
    yield from speed.section(speeds, [(LAYERS[0].name, SCRATCH.name), (LAYERS[1].name, ""), (SCRATCH.name, "")])
    yield Heading("What they write")
    yield "Greedily, after a prefix of two words, when the training is over:"
    yield Items(tuple(f"{row['name']}: `{row['sample']}`" for row in runs.to_dict("records")))


def _line(row: dict) -> dict[str, str]:
    met = "met" if row["perplexity"] <= row["goal"] else "missed"
    return {
        "network": row["name"],
        "tokens": f"{row['token']}s, {row['vocabulary']} different",
        "epochs": str(row["epochs"]),
        "perplexity": f"{row['perplexity']:.3f} ({row['lowest']:.3f})",
        "goal": f"{row['goal']:g}, {met}",
        "published": f"{row['published']:g}" if row["published"] else "",
    }


def _plot(runs: pd.DataFrame, curves: pd.DataFrame) -> Iterator[Block]:
    from gatefuse.bench.report.document.blocks import Picture

    alt = "Perplexity over epochs, by characters and by words"
    if find_spec("matplotlib") is None:
        yield f"{alt}: left out, since matplotlib is not installed (`pip install 'gatefuse[report]'`)."
        return
    from gatefuse.bench.report.document.drawing import Panel, draw, styles

    looks = styles(runs["name"])
    panels = []
    for kind, some in runs.groupby("token", sort=False):
        rows = curves[curves["name"].isin(some["name"])]
        panels.append(Panel(f"by {kind}s", partial(_lines, rows, looks)))
    yield Picture("language.svg", alt, draw(panels, "language", len(runs)))


def _lines(rows: pd.DataFrame, looks: dict, axes: Axes) -> None:
    for name, some in rows.groupby("name", sort=False):
        axes.plot(some["epoch"], some["perplexity"], label=name, markevery=max(1, len(some) // 8), **looks[str(name)])
    axes.set_yscale("log")
    high = rows["perplexity"].max()
    near = (1, 1.5, 2, 3, 5, 10, 20, 50)
    ticks = [tick for tick in (near if high < 60 else (1, 3, 10, 30, 100, 300, 1000, 3000)) if tick <= high]
    axes.yaxis.set_ticks([], minor=True)
    axes.yaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("epoch")
    axes.set_ylabel("perplexity")

"""How many tokens a second a layer and the network from scratch train, on one thread and on every core.

The networks take turns of one epoch. The first turn of each number of threads warms up and is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from gatefuse.bench.storage.whole_file import write_whole
from gatefuse.models.language.corpus import Corpus
from gatefuse.models.language.training import Settings, Trainer

if TYPE_CHECKING:
    from gatefuse.bench.report.document.blocks import Block

# What a layer over the network from scratch is to reach on two cores.
GOAL = 2.5
_STAMP = ("cpu", "cores", "load", "torch", "commit", "tree", "date")


def measure(
    path: Path, corpus: Corpus, networks: dict[str, Settings], epochs: int = 10, threads: Sequence[int] | None = None
) -> None:
    """Write a row for each network, number of threads and epoch.

    Args:
        path: the CSV.
        networks: what each is called.
        epochs: of each network at each number of threads.
        threads: these numbers; one and as many as there are cores where None.

    Raises:
        OSError: the file can't be written.
        ValueError: a text too short.
    """
    from gatefuse.bench.measure.stamp import take_stamp

    stamp = {name: value for name, value in asdict(take_stamp(torch.device("cpu"))).items() if name in _STAMP}
    before = torch.get_num_threads()
    rows: list[dict[str, object]] = []
    try:
        for count in threads or sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(count)
            trainers = {name: Trainer(corpus, settings) for name, settings in networks.items()}
            for number in range(epochs + 1):
                for name, trainer in trainers.items():
                    speed = trainer.epoch().tokens_per_second
                    if number:
                        rows.append({"name": name, "threads": count, "epoch": number, "tokens_per_second": speed})
    finally:
        torch.set_num_threads(before)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows).assign(**stamp)
    write_whole(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def section(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> Iterator[Block]:
    """The section on speed, out of the rows.

    Args:
        pairs: a layer's name, and that of the network from scratch beside it, "" for none.
    """
    from gatefuse.bench.report.document.blocks import Heading, Table
    from gatefuse.bench.report.document.figures import times

    speeds = rows.pivot(index=["threads", "epoch"], columns="name", values="tokens_per_second")
    lines = []
    for name, baseline in pairs:
        line = {"network": name}
        for threads, some in speeds.groupby("threads"):
            line[f"{threads} threads" if threads != 1 else "1 thread"] = f"{some[name].median():.0f}"
            if baseline:
                low, middle, high = (some[name] / some[baseline]).quantile([0.2, 0.5, 0.8])
                over = f"{times(middle)} ({times(low)} to {times(high)})"
            line[f"over scratch, {threads}"] = over if baseline else ""
        lines.append(line)
    first = rows.iloc[0]
    yield Heading("Tokens a second")
    yield Table(pd.DataFrame(lines))
    yield (
        f"Training over characters as above, medians over {rows['epoch'].max()} epochs of each network in turn; beside "
        "the network from scratch, the median of both speeds' ratio in the same turn, on so many threads, and its 20 % "
        f"and 80 % quantiles. The goal on two cores is {GOAL:g}x. Other programs slow two threads most, as these wait "
        f"for each other. {first['cpu']}, {first['cores']} cores, torch {first['torch']}, {first['date']}, "
        f"commit {first['commit'][:10]} ({first['tree']}); the machine's load was {first['load']} when it began."
    )

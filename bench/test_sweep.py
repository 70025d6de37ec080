"""What ``pytest --benchmark`` runs: one test for each contender of each group. session.py says which there are."""

import pytest

from gatefuse.bench.plugin.replay import Replay
from gatefuse.bench.plugin.session import Session


def test_sweep(group: str, contender: str, request: pytest.FixtureRequest) -> None:
    session: Session = request.config.stash[Session.key]
    row, samples = session.raced(group)[contender]
    if row.status != "ok":
        # A machine's limit is no fault; anything else that a contender raises is one.
        (pytest.skip if row.status == "left out" or "out of memory" in row.note else pytest.fail)(row.note)
    benchmark = request.getfixturevalue("benchmark")
    benchmark.extra_info.update(
        row.group.columns,
        contender=row.contender,
        driver=row.driver,
        device=session.stamp.device,
        gpu=session.stamp.gpu or session.stamp.cpu,
        commit=session.stamp.commit,
    )
    replay: Replay = request.node.get_closest_marker("benchmark").kwargs["timer"]
    replay.give(benchmark, samples.seconds)

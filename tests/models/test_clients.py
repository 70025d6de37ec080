"""Real programs give the same with the layers accelerated; each is skipped where it is not installed."""

import re

import pytest
import torch

from tests.clients import CLIENTS, REPORT, measure, row

# what others warn of is not ours to fix
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("client", CLIENTS, ids=[client.package for client in CLIENTS])
def test_a_client_gives_the_same(client):
    if client.missing:
        pytest.skip(f"{client.missing} is not installed")
    outcome = measure(client)
    assert bool(outcome.told.changed) != bool(outcome.told.left)
    if client.package != "onnxruntime":  # which runs the steps itself
        assert outcome.vendor == 0
    # rounding, after some steps of training have passed it on
    assert max(outcome.vendor, outcome.auto, outcome.eager) < 100 * torch.finfo(torch.float32).eps

    name, what, replaced, left, *_ = row(client, outcome).values()
    reported = [line.strip("| ").split(" | ") for line in REPORT.read_text().splitlines() if line.startswith("| ")]
    assert [re.sub(r" [\d.]+$", "", name), what, replaced, left] in [
        [re.sub(r" [\d.]+$", "", cells[0]), *cells[1:4]] for cells in reported
    ]

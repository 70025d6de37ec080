"""What breaks a device ends its process, and nothing that was measured beside it counts."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gatefuse.bench.measure import broken_device, race
from gatefuse.bench.measure.clocks import CpuClock
from gatefuse.bench.measure.sampling import measure
from gatefuse.bench.plugin.session import Session
from gatefuse.bench.storage.sweep_table import read
from gatefuse.bench.suite import contenders as who
from gatefuse.bench.suite.contender import Contender, Network
from gatefuse.bench.suite.sweeps import Group, Shape

CPU = torch.device("cpu")
SMALL = Group(Shape("lstm", 8, 2, 3, 4), "float32", "forward")


class Device:
    """torch.cuda as far as its answers go: each call fails once ``broken`` is set, and a refused one once."""

    def __init__(self):
        self.broken = self.refused = False

    def is_initialized(self):
        return True

    def synchronize(self):
        refused, self.refused = self.refused, False
        if self.broken or refused:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture
def device(monkeypatch):
    found = Device()
    monkeypatch.setattr(broken_device, "torch", SimpleNamespace(cuda=found))
    return found


def breaks(device):
    device.broken = True
    device.synchronize()


def test_an_error_that_is_over_breaks_nothing(device):
    assert broken_device.answer() is None
    device.refused = True  # say a capture that failed
    assert broken_device.answer() is None
    broken_device.blame("a", MemoryError("out of memory"))
    device.broken = True
    assert "illegal memory access" in str(broken_device.answer())


@pytest.mark.parametrize("when", [1, 3, 15])
def test_nobody_is_measured_on_a_broken_device(device, when):
    calls = []

    def guilty():
        calls.append("guilty")
        if calls.count("guilty") == when:
            breaks(device)

    contenders = {"before": lambda: calls.append("before"), "guilty": guilty, "after": lambda: calls.append("after")}
    with pytest.raises(
        broken_device.BrokenError, match="after guilty the device answers no more: RuntimeError: CUDA error"
    ) as end:
        measure(contenders, CpuClock(), budget=1.0)
    assert end.value.name == calls[-1] == "guilty"


def test_a_capture_or_a_replay_that_breaks_the_device_is_blamed(device):
    class Clock(CpuClock):
        def __init__(self, graph):
            self.graph = graph

        def graphed(self, call):
            return self.graph()

    def captures():
        device.broken = True  # and the clock gives no graph

    for graph in (captures, lambda: lambda: breaks(device)):
        device.broken = False
        with pytest.raises(broken_device.BrokenError, match="after a the device"):
            measure({"a": lambda: None}, Clock(graph), budget=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["build", "call", "reference"])
def test_the_row_of_the_guilty_alone_is_written_and_stays(device, monkeypatch, tmp_path, where):
    """Another process leaves it out, measures the rest of the group, and keeps that row."""

    def build(group, source):
        if where == "build":
            breaks(device)
        return Network(lambda x: breaks(device), ())

    monkeypatch.setenv("GATEFUSE_COMMIT", "c0ffee")
    entry = Contender("guilty", build)
    monkeypatch.setattr(who, "CONTENDERS", (*who.CONTENDERS[:2], entry, *who.CONTENDERS[2:]))
    monkeypatch.setattr("gatefuse.bench.plugin.session.CONTENDERS", who.CONTENDERS)
    if where == "reference":
        monkeypatch.setattr(race.networks, "make_oracle", lambda group, source: lambda *batch: breaks(device))
        monkeypatch.setattr(race, "_call", lambda group, network, batch: network)
    rows = tmp_path / "rows.csv"
    first = Session("smoke", tmp_path, rows=rows)
    group = first.groups[0]
    with pytest.raises(
        broken_device.BrokenError, match=f"after {'the reference' if where == 'reference' else 'guilty'} the dev"
    ):
        first.raced(group.title)
    if where == "reference":
        assert not rows.exists()
        return
    (row,) = read(rows).to_dict("records")
    assert (row["contender"], row["status"]) == ("guilty", "failed")
    assert row["note"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    device.broken = False
    first.table.close()
    Session("smoke", tmp_path, resume=True, rows=rows, without=["guilty"]).raced(group.title)
    found = read(rows).set_index("contender")
    assert found.loc["guilty", "note"] == row["note"]
    assert found.loc["gatefuse eager", "status"] == "ok"


@pytest.mark.slow
def test_a_group_without_a_reference_is_measured_anew(monkeypatch, tmp_path):
    def fails(group, source):
        raise MemoryError("too large")

    monkeypatch.setenv("GATEFUSE_COMMIT", "c0ffee")
    rows = tmp_path / "rows.csv"
    first = Session("smoke", tmp_path, rows=rows)
    group = first.groups[0]
    with monkeypatch.context() as patch:
        patch.setattr(race.networks, "make_oracle", fails)
        row, _ = first.raced(group.title)["torch.nn"]
    first.table.close()
    again = Session("smoke", tmp_path, resume=True, rows=rows)
    assert not again.table.holds(row.columns())
    again.raced(group.title)
    assert set(read(rows)["note"].str.startswith("in the float64 reference")) == {False}


RUN = """
from types import SimpleNamespace
from gatefuse.bench.measure import broken_device
from tests.bench.measure.test_broken_device import Device

def pytest_configure(config):
    broken_device.torch = SimpleNamespace(cuda=Device())
    config.pluginmanager.register(broken_device.Watch())
"""
TESTS = """
import torch
from gatefuse.bench.measure import broken_device

def test_one():
    pass

def test_large():
    raise torch.OutOfMemoryError("out of memory")

def test_guilty():
    broken_device.torch.cuda.broken = True
    broken_device.torch.cuda.synchronize()

def test_next():
    pass
"""


@pytest.mark.slow
def test_a_test_that_breaks_the_device_is_the_last(tmp_path):
    (tmp_path / "conftest.py").write_text(RUN)
    (tmp_path / "test_it.py").write_text(TESTS)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), f"--rootdir={tmp_path}", "-v"]
    done = subprocess.run([*command, tmp_path], cwd=root, capture_output=True, text=True)
    assert done.returncode == broken_device.STATUS, done.stdout + done.stderr
    assert "test_large FAILED" in done.stdout
    assert "test_guilty FAILED" in done.stdout
    assert "an illegal memory access" in done.stdout  # the failure itself is reported
    assert f"Interrupted: {broken_device.SAID}" in done.stdout or f"! {broken_device.SAID}" in done.stdout
    assert "test_next" not in done.stdout

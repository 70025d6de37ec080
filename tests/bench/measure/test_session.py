"""The benchmark: what is swept, how samples are taken, how contenders are judged, and a whole run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from gatefuse.bench.measure import race
from gatefuse.bench.measure.clocks import CpuClock
from gatefuse.bench.plugin.replay import Replay
from gatefuse.bench.plugin.session import Session
from gatefuse.bench.storage.lock import Lock
from gatefuse.bench.storage.sweep_table import read
from gatefuse.bench.suite import contenders as who
from gatefuse.bench.suite import networks
from gatefuse.bench.suite.contender import Contender, Network
from gatefuse.bench.suite.sweeps import FULL_BYTES, FULL_FLOP, REAL_CPU_FLOP, SWEEPS, Group, Shape, groups, shapes

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
SMALL = Group(Shape("lstm", 8, 2, 3, 4), "float32", "forward")


def test_quick_holds_the_shapes_that_are_asked_about():
    found = {(s.cell, s.H, s.B, s.T, s.I) for s in shapes("quick", "cpu")}
    assert ("lstm", 64, 1, 100, 64) in found
    assert ("lstm", 256, 32, 35, 28) in found
    assert {cell for cell, *_ in found} >= {"lstm", "gru", "elman", "gru_reset_first", "peephole_lstm", "slstm"}
    assert found <= {(s.cell, s.H, s.B, s.T, s.I) for s in shapes("quick", "cuda")}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_full_stays_within_its_bounds_and_reaches_its_corners(device):
    found = shapes("full", device)
    assert all(s.bytes <= FULL_BYTES[device] and s.flop <= FULL_FLOP[device] for s in found)
    for axis, low, high in (("H", 16, 4096), ("B", 1, 4096), ("T", 1, 2048)):
        values = {getattr(s, axis) for s in found}
        assert (min(values), max(values)) == (low, high)
        assert any(v & (v - 1) for v in values)


def test_real_rows_are_named_and_bounded_on_a_cpu():
    on_cpu, on_gpu = shapes("real", "cpu"), shapes("real", "cuda")
    assert all(s.flop <= REAL_CPU_FLOP == 0.1e12 for s in on_cpu)
    assert set(on_cpu) < set(on_gpu)
    assert all(s.name for s in on_gpu)
    assert len({s.name for s in on_gpu}) == len(on_gpu)
    assert {"enwik8", "open-unmix"} <= {s.name for s in on_gpu} - {s.name for s in on_cpu}


def test_flop_counts_both_products_of_a_training_call():
    assert Shape("lstm", 8, 2, 3, 4).flop == 3 * 2 * 3 * 2 * 32 * (4 + 8)
    assert Shape("lstm", 8, 2, 3, 4, heads=4).flop == 3 * 2 * 3 * 2 * 32 * (4 + 2)
    deep = Shape("gru", 8, 2, 3, 4, layers=2, bidirectional=True)
    assert deep.flop == 3 * 2 * 3 * 2 * 24 * 2 * ((4 + 8) + (16 + 8))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_titles_tell_groups_apart(sweep):
    found = groups(sweep, "cuda")
    assert len({group.title for group in found}) == len(found)


def test_an_unknown_sweep_is_refused():
    with pytest.raises(
        ValueError, match=r"sweep must be one of quick, full, real, lengths, regimes, half, first, smoke. Got 'slow'"
    ):
        groups("slow", "cpu")


def test_a_replay_gives_exactly_the_samples():
    class Fixture:
        def pedantic(self, target, rounds, iterations):
            self.seconds = []
            for _ in range(rounds):
                start = replay()
                target()
                self.seconds.append(replay() - start)

    replay, fixture = Replay(), Fixture()
    replay.give(fixture, [0.1, 0.3, 1e-7])
    assert fixture.seconds == [0.1, 0.3, 1e-7]
    with pytest.raises(ValueError, match=r"seconds must hold at least one sample. Got none."):
        replay.give(fixture, [])


@pytest.mark.parametrize(
    "cell", ["lstm", "gru", "elman", "elman_relu", "gru_reset_first", "article_peephole_lstm", "slstm"]
)
@pytest.mark.parametrize("mode", ["forward", "training"])
def test_contenders_of_a_group_agree_with_float64(cell, mode):
    found = race.race(Group(Shape(cell, 5, 3, 4, 2), "float32", mode), CpuClock(), CPU, budget=0.0)
    rows = {name: row for name, (row, _) in found.items()}
    assert rows.pop("gatefuse step").status == "left out"
    ok = {name for name, row in rows.items() if row.status == "ok"}
    assert {"gatefuse eager", "gatefuse script", "gatefuse aten", "gatefuse llvm", "gatefuse auto"} <= ok
    assert ("torch.nn" in ok) == (cell in ("lstm", "gru", "elman", "elman_relu"))
    assert not [row for row in rows.values() if row.status == "failed"]
    assert all(rows[name].error < 1e-5 and rows[name].p20 <= rows[name].p50 <= rows[name].p80 for name in ok)
    assert rows["gatefuse auto"].driver == "llvm"


def test_deep_networks_leave_scratch_out():
    group = Group(Shape("lstm", 4, 2, 3, 2, layers=2, bidirectional=True), "float32", "training")
    found = race.race(group, CpuClock(), CPU, budget=0.0)
    row, _ = found["scratch 2 products"]
    assert (row.status, row.note) == ("left out", "written for one layer and one direction")
    row, _ = found["torch.nn"]
    assert (row.status, row.baseline) == ("ok", "hand-written loop")


def test_a_contender_that_raises_or_errs_leaves_a_row(monkeypatch):
    def raises(group, source):
        raise RuntimeError("cannot build")

    def errs(group, source):
        return Network(lambda x: torch.zeros(3, 2, 8), ())

    def raises_late(group, source):
        return Network(lambda x: x @ x, ())

    built = {"raises": raises, "errs": errs, "raises late": raises_late}
    extra = tuple(Contender(name, build) for name, build in built.items())
    monkeypatch.setattr(who, "CONTENDERS", who.CONTENDERS + extra)
    rows = {name: row for name, (row, _) in race.race(SMALL, CpuClock(), CPU, budget=0.0).items()}
    assert {rows[name].status for name in built} == {"failed"}
    assert rows["raises"].note == "RuntimeError: cannot build"
    assert rows["errs"].note == "ArithmeticError: errs by 1 against float64, over 0.02"
    assert "RuntimeError" in rows["raises late"].note
    assert rows["torch.nn"].status == "ok"


def test_without_a_reference_nobody_is_timed(monkeypatch):
    def fail(group, source):
        raise MemoryError("too large")

    monkeypatch.setattr(networks, "make_oracle", fail)
    found = race.race(SMALL, CpuClock(), CPU, budget=0.0)
    assert {row.note for row, _ in found.values()} == {"in the float64 reference: MemoryError: too large"}


@pytest.mark.slow
def test_a_whole_run(tmp_path):
    command = [
        sys.executable, "-m", "pytest", "--benchmark", "--sweep=smoke", f"--reports={tmp_path}",
        f"--benchmark-json={tmp_path}/all.json", "-p", "no:cacheprovider",
    ]  # fmt: skip
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "[1/4] lstm H8 B2 T3 I4 float32 forward" in first.stdout
    (csv,) = tmp_path.glob("*/smoke.csv")
    assert f"report: {csv.with_suffix('.md')}" in first.stdout
    rows = read(csv).query("status == 'ok'").set_index(["cell", "mode", "contender"])
    held = json.loads((tmp_path / "all.json").read_text())
    assert held["machine_info"]["gatefuse"]["torch"] == torch.__version__
    measured = held["benchmarks"]
    assert len(measured) == len(rows)
    (row_cpu,) = rows["cpu"].unique()
    for entry in measured:
        info = entry["extra_info"]
        assert info["gpu"] == (held["machine_info"]["gatefuse"]["gpu"] or row_cpu)
        row = rows.loc[(info["cell"], info["mode"], info["contender"])]
        assert entry["stats"]["rounds"] == row["samples"]
        assert pd.Series(entry["stats"]["data"]).median() == pytest.approx(row["p50"], rel=1e-5)
        assert row["floor_share"] == pytest.approx(row["floor_seconds"] / row["p50"], rel=1e-4)
        assert row["compile_seconds"] >= 0
    (tmp_path / "again.json").write_text((tmp_path / "all.json").read_text())
    compare = [sys.executable, "-m", "pytest_benchmark", "compare", f"{tmp_path}/all.json", f"{tmp_path}/again.json"]
    said = subprocess.run(compare, cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "torch.nn" in said.stdout


def test_a_contender_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a contender must be one of hand-written loop, .* Got 'cudnn'."):
        Session("smoke", tmp_path, without=["cudnn"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_that_does_not_exist_is_a_usage_error(tmp_path):
    command = [sys.executable, "-m", "pytest", "--benchmark", "--sweep=slow", f"--reports={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "sweep must be one of quick, full, real, lengths, regimes, half, first, smoke. Got 'slow'." in done.stderr
    assert not list(tmp_path.iterdir())


def run_smoke(reports, *more):
    command = [sys.executable, "-m", "pytest", "--benchmark", "--sweep=smoke", f"--reports={reports}", "-q", *more]
    return subprocess.run([*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_of_a_part_leaves_the_whole_report_as_it_is(tmp_path):
    first = run_smoke(tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    (csv,) = tmp_path.glob("*/smoke.csv")
    page = csv.with_suffix(".md")
    assert first.stdout.splitlines()[-1] == f"report: {page} (rows: {csv})"
    assert "A part of the sweep" not in page.read_text()
    plot = csv.with_name("smoke-step.svg")
    plot.write_text("a plot")
    before = {path.name: path.read_bytes() for path in csv.parent.iterdir()}
    second = run_smoke(tmp_path, "-k", "lstm and training")
    part = csv.with_name("smoke.partial.csv")
    assert second.stdout.splitlines()[-2:] == [
        f"1 of 4 groups are measured; {csv} is as it was. --resume goes on.",
        f"report: {part.with_suffix('.md')} (rows: {part})",
    ]
    assert {name: csv.with_name(name).read_bytes() for name in before} == before
    assert "**A part of the sweep: 1 of 4 groups.**" in part.with_suffix(".md").read_text()
    third = run_smoke(tmp_path, "--resume")
    assert third.stdout.splitlines()[-1] == f"report: {page} (rows: {csv})"
    assert not list(csv.parent.glob("*partial*"))
    assert csv.read_bytes() != before["smoke.csv"]
    dates = read(csv).groupby(["cell", "mode"])["date"].nunique()
    assert (dates == 1).all()
    assert len(dates) == 4
    assert not plot.exists()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_second_run_on_the_same_rows_is_refused(tmp_path, more):
    """Else each would replace the other's rows by those that lay there when it began."""
    rows = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "pytest", "--benchmark", "--sweep=smoke", f"--rows={rows}", *more]
    with Lock(rows):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{rows} must be written by one run at a time. Got process {os.getpid()} (" in done.stderr
    assert "or give this one another file (--rows=FILE or --reports=DIR)." in done.stderr
    assert not list(tmp_path.iterdir())

"""What `make gpu` says at its end, in a page of text."""

from dataclasses import asdict

import torch

from gatefuse.bench.gpu import summary
from gatefuse.bench.gpu.jobs import Entry
from gatefuse.bench.measure.peaks import UNKNOWN
from gatefuse.bench.measure.row import Row, compare
from gatefuse.bench.measure.sampling import Samples
from gatefuse.bench.measure.stamp import take_stamp
from gatefuse.bench.storage.sweep_table import Table
from gatefuse.bench.suite.sweeps import Group, Shape


def write_rows(path, **p50s):
    stamp = {**asdict(take_stamp(torch.device("cpu"))), "commit": "c0ffee", "load": 0.0}
    rows = []
    for name, seconds in p50s.items():
        row = Row(Group(Shape("lstm", 8, 2, 3, 4), "bfloat16", "training"), name.replace("_", " "), driver="step")
        row.take(Samples([seconds] * 3))
        row.floor = UNKNOWN._replace(floor_seconds=0.25 * seconds)
        rows.append(row)
    compare(rows, "gatefuse eager")
    Table(path, stamp).append([row.columns() for row in rows])


def test_the_summary_says_who_wins_and_what_failed_in_40_lines(tmp_path):
    write_rows(tmp_path / "quick.csv", gatefuse_eager=0.8, gatefuse_auto=0.2, **{"torch.nn": 0.1})
    (tmp_path / "real.csv").write_text("")
    bad = Entry("failed", tests={f"tests/a.py::test_{k}": "FAILED" for k in range(50)}, output="Traceback")
    entries = {"one": Entry("passed", seconds=3.2, tests={"tests/a.py::test": "PASSED"}), "two": bad}
    text = summary.summary("Some GPU", entries, {n: tmp_path / f"{n}.csv" for n in ("quick", "real", "full")})
    lines = text.splitlines()
    assert len(lines) <= 40
    assert lines[0] == "Some GPU"
    assert "  and 44 more, in summary.txt" in lines
    assert any(line.split() == ["quick", "1", "0", "4.00x", "0.50x", "25%"] for line in lines)
    assert any("must hold a header and rows" in line for line in lines)
    assert lines[-1] == "  0.50x  quick: lstm H8 B2 T3 I4 bfloat16 training, by step"
    sheet = summary.tests(entries)
    assert sheet.count("FAILED tests/a.py") == 50
    assert sheet.rstrip().endswith("Traceback")


def test_the_first_minutes_sweep_is_a_table_of_times(tmp_path):
    path = tmp_path / "first.csv"
    assert summary.kernels(path) == ""
    write_rows(path, gatefuse_grid=3e-6, **{"torch.nn": 6e-6})
    head, row = summary.kernels(path).splitlines()
    assert head.split() == ["microseconds", "a", "step", "gatefuse", "grid", "torch.nn", "the", "least"]
    assert row.split() == ["lstm", "8/2", "training", "1", "2", "0.25"]
    path.write_text("")
    assert summary.kernels(path).startswith("first.csv: ")

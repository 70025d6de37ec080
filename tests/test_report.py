"""Rows and reports of the benchmark: what lands on disk, what is kept, what the report says."""

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from gatefuse.bench import readme, report
from gatefuse.bench.__main__ import main
from gatefuse.bench.measure import Samples
from gatefuse.bench.rows import Row, compare, slug, take_stamp
from gatefuse.bench.sweeps import Group, Shape
from gatefuse.bench.table import Table, read

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
SMALL = Group(Shape("lstm", 8, 2, 3, 4), "float32", "forward")


def make_row(contender, p50, group=SMALL, **more):
    row = Row.of(group, contender, "ok")
    row.fill(Samples([p50 * 0.9, p50, p50 * 1.1], first_call=p50))
    return replace(row, **{"error": 1e-7, **more})


def make_stamp(**more):
    return {**asdict(take_stamp(CPU)), "commit": "c0ffee", "cpu": "Some CPU", "load": 0.1, "cores": 2, **more}


def test_figures_follow_from_the_samples():
    rows = [make_row("slow", 0.3), make_row("fast", 0.1)]
    compare(rows, "slow")
    assert rows[1].speedup == pytest.approx(3.0)
    assert rows[1].us_per_step == pytest.approx(0.1 * 1e6 / 3)
    assert rows[1].tokens_per_second == pytest.approx(2 * 3 / 0.1)
    assert rows[1].baseline == "slow"


def test_a_stamp_says_where():
    stamp = take_stamp(CPU)
    assert (stamp.device, stamp.kind, stamp.gpu) == ("cpu", "cpu", "")
    assert stamp.torch == torch.__version__
    assert stamp.threads == torch.get_num_threads()
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_the_commit_comes_from_the_environment_where_git_is_not(monkeypatch):
    monkeypatch.setattr("gatefuse.bench.rows._output", lambda *command: "")
    monkeypatch.delenv("GATEFUSE_COMMIT", raising=False)
    assert (take_stamp(CPU).commit, take_stamp(CPU).tree) == ("unknown", "unknown")
    monkeypatch.setenv("GATEFUSE_COMMIT", "abc")
    assert take_stamp(CPU).commit == "abc"


def test_rows_are_appended_with_their_stamp(tmp_path):
    table = Table(tmp_path / "cpu" / "a.csv", make_stamp())
    table.append([asdict(make_row("one", 0.1))])
    table.append([asdict(make_row("two", 0.2, replace(SMALL, mode="training")))])
    rows = read(table.path)
    assert rows["contender"].tolist() == ["one", "two"]
    assert set(rows["commit"]) == {"c0ffee"}
    assert rows["p50"].tolist() == [0.1, 0.2]
    assert rows["note"].tolist() == ["", ""]


def test_a_new_run_replaces_the_file_with_its_first_rows(tmp_path):
    path = tmp_path / "a.csv"
    Table(path, make_stamp()).append([asdict(make_row("old", 0.1))])
    table = Table(path, make_stamp())
    assert read(path)["contender"].tolist() == ["old"]
    table.append([asdict(make_row("new", 0.1))])
    assert read(path)["contender"].tolist() == ["new"]


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ({}, {}, True),
        ({"commit": "decade"}, {}, False),
        ({"device": "gpu"}, {}, False),
        ({"commit": "unknown"}, {"commit": "unknown"}, False),
    ],
)
def test_a_resumed_run_keeps_what_this_commit_measured_on_this_device(tmp_path, before, now, kept):
    path = tmp_path / "a.csv"
    Table(path, make_stamp(**before)).append([asdict(make_row("one", 0.1))])
    table = Table(path, make_stamp(**now), resume=True)
    assert table.holds(asdict(Row.of(SMALL, "one", ""))) is kept
    assert not table.holds(asdict(Row.of(SMALL, "two", "")))
    table.append([asdict(make_row("two", 0.1))])
    assert read(path)["contender"].tolist() == ["one", "two"][not kept :]


@pytest.fixture
def made_up(tmp_path):
    """Two groups: gatefuse wins 3 to 1 over eager and 2 to 1 over torch.nn in the first, loses 1 to 2 in the second."""
    path = tmp_path / "cpu" / "quick.csv"
    table = Table(path, make_stamp())
    for H, auto, vendor in ((8, 0.1, 0.2), (16, 0.2, 0.1)):
        group = replace(SMALL, shape=replace(SMALL.shape, H=H))
        rows = [
            make_row("scratch 2 products", 0.3, group),
            make_row("gatefuse auto", auto, group, driver="vendor"),
            make_row("torch.nn", vendor, group),
            Row.of(group, "gatefuse step", "left out", "needs a GPU"),
            Row.of(group, "gatefuse script", "failed", "RuntimeError: a | b"),
        ]
        compare(rows, "scratch 2 products")
        table.append([asdict(row) for row in rows])
    return path


def test_the_report_says_who_wins_and_where_it_loses(made_up):
    path = report.write(made_up)
    assert path == made_up.with_suffix(".md")
    text = path.read_text()
    assert text.splitlines()[0].startswith("**This is a CPU report**: sweep quick, 2 groups")
    assert "Some CPU" in text.splitlines()[0]
    assert "| lstm | float32 | forward | 2 | vendor | 2.12x | 1.50x | scratch 2 products | 1.00x | 0.50x |" in text
    assert "slower in 1 and faster in 1" in text
    assert "| lstm H16 B2 T3 I4 | float32 | forward | vendor | 66667 | 33333 | 2 |" in text
    assert text.index("## How much faster") < text.index("## Where it loses") < text.index("## lstm, forward, float32")
    assert "| 8 | 2 | 3 | 4 | 100000* | 33333 (3.00x) | 66667 (1.50x) |" in text


def test_the_report_shows_failures_and_what_was_not_measured(made_up):
    text = report.write(made_up).read_text()
    assert "| lstm H8 B2 T3 I4 | float32 | forward | gatefuse script | RuntimeError: a \\| b |" in text
    assert "| gatefuse step | lstm | 2 | needs a GPU |" in text
    assert "- commit: c0ffee" in text


def test_overlapping_intervals_are_no_loss(tmp_path):
    table = Table(tmp_path / "a.csv", make_stamp())
    table.append([asdict(make_row("gatefuse auto", 0.102)), asdict(make_row("torch.nn", 0.1))])
    assert "slower in 0 and faster in 0" in report.write(table.path).read_text()


@pytest.mark.parametrize(("load", "busy"), [(0.4, False), (1.9, True), (float("nan"), False)])
def test_the_report_says_so_if_the_machine_was_busy(tmp_path, load, busy):
    table = Table(tmp_path / "a.csv", make_stamp(load=load))
    table.append([asdict(make_row("gatefuse auto", 0.1))])
    text = report.write(table.path).read_text()
    assert ("**The machine was busy**: its load was 1.9 on 2 cores" in text) is busy


def test_a_report_of_failures_alone_is_still_one(tmp_path):
    table = Table(tmp_path / "a.csv", make_stamp(kind="cuda", gpu="Some GPU"))
    table.append([asdict(Row.of(SMALL, "torch.nn", "failed", "OutOfMemoryError: out of memory"))])
    text = report.write(table.path).read_text()
    assert text.startswith("**GPU report**")
    assert "Some GPU" in text.splitlines()[0]
    assert "Nothing could be measured." in text
    assert "OutOfMemoryError" in text


def test_the_report_needs_no_torch(made_up):
    code = (
        "import sys; sys.modules['torch'] = None; from bench.__main__ import main; "
        f"main(['report', {str(made_up)!r}]); assert 'gatefuse' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(made_up.with_suffix(".md"))


def test_committed_reports_and_the_readme_say_what_their_rows_say(tmp_path):
    changed = subprocess.run(["git", "status", "--porcelain", "reports"], cwd=ROOT, capture_output=True, text=True)
    if changed.stdout:
        pytest.skip("reports/ holds a run that is not committed")
    committed = sorted(ROOT.glob("reports/*/*.csv"))
    assert ROOT / "reports/cpu/quick.csv" in committed
    for csv in committed:
        again = tmp_path / csv.parent.name / csv.name
        again.parent.mkdir(exist_ok=True)
        again.write_bytes(csv.read_bytes())
        main(["report", str(again)])
        assert again.with_suffix(".md").read_bytes() == csv.with_suffix(".md").read_bytes(), csv
    copy = tmp_path / "README.md"
    copy.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    readme.fill(copy, ROOT / "reports/cpu/quick.csv", ROOT)
    assert copy.read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_readme_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"README.md must hold <!-- report:start --> and <!-- report:end --> once"):
        readme.fill(page, tmp_path / "x.csv")
    assert page.read_text() == "no marks"


def test_every_contender_has_its_mean_over_the_baseline(tmp_path):
    rows = [make_row("scratch 2 products", 0.4), make_row("gatefuse auto", 0.1), make_row("torch.nn", 0.2)]
    compare(rows, "scratch 2 products")
    table = Table(tmp_path / "a.csv", make_stamp())
    table.append([asdict(row) for row in rows])
    text = report.render(read(table.path), "a")
    assert "| cell | dtype | mode | shapes | scratch 2 products | gatefuse auto | torch.nn |" in text
    assert "| lstm | float32 | forward | 1 | * | 4.00x | 2.00x |" in text
    assert "| lstm | float32 | forward | 1 | * | 4.00x | 2.00x |" in report.summary(read(table.path), "a")

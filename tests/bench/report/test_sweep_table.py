"""The file of rows: what is read of one that is broken, and what a killed sweep loses."""

import csv
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from gatefuse.bench.measure.row import Row
from gatefuse.bench.measure.sampling import Samples
from gatefuse.bench.measure.stamp import take_stamp
from gatefuse.bench.storage.sweep_table import FIGURES, Table, read
from gatefuse.bench.suite.sweeps import Group, Shape

ROOT = Path(__file__).resolve().parents[3]
SMALL = Group(Shape("lstm", 8, 2, 3, 4), "float32", "forward")


def make_stamp(**more):
    return {**asdict(take_stamp(torch.device("cpu"))), "commit": "c0ffee", **more}


def make_row(contender, p50=0.1, group=SMALL):
    row = Row(group, contender)
    row.take(Samples([p50] * 3))
    return row.columns()


@pytest.fixture
def path(tmp_path):
    table = Table(tmp_path / "a.csv", make_stamp())
    table.append([make_row("one"), make_row("two"), make_row("three")])
    return table.path


def test_rows_of_files_that_know_no_heads_have_one(path):
    rows = pd.read_csv(path)
    assert rows["heads"].tolist() == [1, 1, 1]
    rows.drop(columns="heads").to_csv(path, index=False)
    assert read(path)["heads"].tolist() == [1, 1, 1]


def test_half_a_line_at_the_end_is_skipped_and_named(path):
    text = path.read_text()
    for cut in (5, len(text.splitlines()[-1]) // 2, len(text.splitlines()[-1]) + 1):
        path.write_text(text[:-cut])
        rows = read(path)
        assert rows["contender"].tolist() == ["one", "two"]
        assert rows.attrs["skipped"] == (["line 4: it is cut off"] if cut <= len(text.splitlines()[-1]) else [])
    path.write_text(text[:-1])  # the last row may be whole, or lack digits of its last field
    assert read(path).attrs["skipped"] == ["line 4: it is cut off"]


def test_broken_rows_are_skipped_and_named(path):
    header, one, two, three = path.read_text().splitlines()
    place = next(csv.reader([header])).index
    bad_count, bad_figure = one.split(","), two.split(",")
    bad_count[place("H")] = "many"
    bad_figure[place("p50")] = "0.1s"
    lines = [header, ",".join(bad_count), three, ",".join(bad_figure), one + ",more", two[: len(two) // 2], '"open']
    path.write_text("\n".join(lines) + "\n")
    rows = read(path)
    assert rows["contender"].tolist() == ["three"]
    said = rows.attrs["skipped"]
    assert said[0] == "line 2: H must be a whole number. Got 'many'"
    assert said[1] == "line 4: p50 must be a number. Got '0.1s'"
    fields = len(header.split(","))
    assert said[2] == f"line 5: it has {fields + 1} fields, and the header {fields}"
    assert [line.split(":")[0] for line in said] == [f"line {n}" for n in (2, 4, 5, 6, 7)]


def test_what_is_no_table_is_refused(path, tmp_path):
    header, *rows = path.read_text().splitlines()
    path.write_text("")
    with pytest.raises(ValueError, match=r"a.csv must hold a header and rows. Got an empty file."):
        read(path)
    path.write_text("cell,contender\nlstm,one\n")
    with pytest.raises(ValueError, match=r"must have the columns cell, contender, mode, .*. Missing: mode, dtype"):
        read(path)
    path.write_text(header + "\n")
    assert read(path).empty
    other = rows[1].replace(f",{make_stamp()['device']},cpu,", ",h100,cuda,")
    path.write_text("\n".join([header, rows[0], other]) + "\n")
    with pytest.raises(ValueError, match=r"a.csv must hold rows of one device. Got .*, h100."):
        read(path)


def test_rows_are_appended_with_their_stamp(tmp_path):
    table = Table(tmp_path / "cpu" / "a.csv", make_stamp())
    table.append([make_row("one", 0.1)])
    table.append([make_row("two", 0.2, replace(SMALL, mode="training"))])
    rows = read(table.path)
    assert rows["contender"].tolist() == ["one", "two"]
    assert set(rows["commit"]) == {"c0ffee"}
    assert rows["p50"].tolist() == [0.1, 0.2]
    assert rows["note"].tolist() == ["", ""]


def test_rows_go_to_a_file_with_a_header_whatever_becomes_of_it(tmp_path):
    table = Table(tmp_path / "a.csv", make_stamp())
    table.append([make_row("one")])
    for content in (None, ""):
        table.path.unlink()
        if content is not None:
            table.path.write_text(content)
        table.append([make_row("two")])
        assert read(table.path)["contender"].tolist() == ["two"]


def test_one_table_at_a_time_has_a_file(path):
    table = Table(path, make_stamp(), resume=True)
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"a.csv must be written by one run at a time. Got process \d+ "):
            Table(path, make_stamp(), resume=resume)
    table.close()
    path.write_text("")
    Table(path, make_stamp(), resume=True).close()
    path.write_text("a,b\n")
    for _ in range(2):  # one that can't be made holds nothing
        with pytest.raises(ValueError, match="must have the columns"):
            Table(path, make_stamp(), resume=True)
    assert [place.name for place in path.parent.iterdir()] == ["a.csv"]


def test_a_new_run_replaces_the_file_with_its_first_rows(tmp_path):
    path = tmp_path / "a.csv"
    Table(path, make_stamp()).append([make_row("old", 0.1)])
    table = Table(path, make_stamp())
    assert read(path)["contender"].tolist() == ["old"]
    table.append([make_row("new", 0.1)])
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
    Table(path, make_stamp(**before)).append([make_row("one", 0.1)])
    table = Table(path, make_stamp(**now), resume=True)
    assert table.holds(Row(SMALL, "one").columns()) is kept
    assert not table.holds(Row(SMALL, "two").columns())
    table.append([make_row("two", 0.1)])
    assert read(path)["contender"].tolist() == ["one", "two"][not kept :]


def test_a_folder_is_no_file_for_rows(tmp_path):
    with pytest.raises(ValueError, match=r"rows must go to a file. Got the folder"):
        Table(tmp_path, make_stamp())


def test_columns_that_older_files_lack_are_there(path):
    later = ("fill", "wall_p50", "graph_p50", "compile_seconds", "flop", "bytes", "matrix_rate", "copy_rate")
    later += ("barrier_seconds", "floor_seconds", "floor_share", "floor_by", "gpu_clocks")
    whole = read(path)
    lines = list(csv.DictReader(path.read_text().splitlines()))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [n for n in lines[0] if n not in later], extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(lines)
    rows = read(path)
    assert sorted([*rows, "gpu_clocks"]) == sorted(whole)
    assert [*rows][[*rows].index("device") :] == [n for n in [*whole][[*whole].index("device") :] if n != "gpu_clocks"]
    assert set(rows["fill"]) == {1.0}
    assert rows[[n for n in later if n in FIGURES and n != "fill"]].isna().all(axis=None)
    assert set(rows["floor_by"]) == {""}
    assert rows["p50"].tolist() == whole["p50"].tolist()


def test_groups_of_different_fill_are_different(tmp_path):
    table = Table(tmp_path / "a.csv", make_stamp())
    for fill in (0.25, 1.0):
        group = replace(SMALL, shape=replace(SMALL.shape, fill=fill))
        table.append([make_row("one", fill, group)])
    rows = read(table.path)
    assert rows["fill"].tolist() == rows["p50"].tolist() == [0.25, 1.0]
    table.close()
    again = Table(table.path, make_stamp(), resume=True)
    assert again.holds(make_row("one", group=replace(SMALL, shape=replace(SMALL.shape, fill=0.25))))
    assert again.holds(make_row("one"))


def test_a_resumed_file_is_whole_at_every_moment(path, monkeypatch):
    """What is resumed from is replaced at once: a kill while it is written leaves the old file."""
    path.write_text(path.read_text()[:-5])
    table = Table(path, make_stamp(), resume=True)
    before = path.read_text()

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            table.append([make_row("four")])
    assert path.read_text() == before
    table.append([make_row("three"), make_row("four")])
    assert read(path)["contender"].tolist() == ["one", "two", "three", "four"]
    assert read(path).attrs["skipped"] == []


@pytest.mark.slow
def test_a_killed_sweep_loses_the_group_in_flight_alone(tmp_path):
    rows = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "pytest", "--benchmark", "--sweep=smoke", f"--rows={rows}", "--resume", "-q"]
    command += ["-p", "no:cacheprovider", "--benchmark-quiet"]
    env_commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if not env_commit:
        pytest.skip("no commit is known here, so that nothing is resumed")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(6000):
        if (rows.exists() and rows.stat().st_size) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = rows.read_text()
    # as if it had been killed within the next write
    rows.write_text(text + text.splitlines()[-1][: len(text.splitlines()[-1]) // 2].replace("float32", "float16"))
    kept = read(rows)
    assert len(kept.attrs["skipped"]) == 1
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read(rows)
    assert found.attrs["skipped"] == []
    assert len(rows.read_text().splitlines()) == 1 + len(found)  # none is doubled
    groups = found.groupby(["cell", "mode"]).size().to_dict()
    assert set(groups) == {(c, m) for c in ("lstm", "gru_reset_first") for m in ("forward", "training")}
    same = found.merge(kept, on=["cell", "mode", "contender"], suffixes=("", "_kept"))
    assert len(same) == len(kept) > 0
    ok = same[same["status"] == "ok"]
    assert ok["p50"].tolist() == ok["p50_kept"].tolist()  # what was measured is not measured again

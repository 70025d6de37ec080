"""Lines of tables: damaged ones are left out and named, the good ones stay, and new ones are added whole."""

import csv
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from gatefuse.bench.language import report as language
from gatefuse.bench.report import measured_costs
from gatefuse.bench.resources import report as resources
from gatefuse.bench.storage import sweep_table, tuning_log
from gatefuse.bench.storage.csv_lines import append, read_lines
from gatefuse.bench.tuning import report as compiled
from tests.support.made_up_rows import make_rows, write

ROOT = Path(__file__).resolve().parents[3]


def sweep(folder):
    return write(make_rows(H=(64,), B=(1,)), folder / "quick.csv"), sweep_table.read


def tuning(folder):
    log = tuning_log.Log(folder / "tuning.csv", {"device": "d", "commit": "c", "tree": "clean", "date": "now"})
    for name in ("one", "two", "three", "four"):
        log.append({**dict.fromkeys(tuning_log.KEY, "x"), "variant": name, "status": "ok", "ratio": 0.5})
    return log.path, tuning_log.read


def committed(name, read):
    def make(folder):
        path = folder / Path(name).name
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:6]), encoding="utf-8")
        return path, read

    return make


def language_rows(path):
    return language._read(path, *language.NUMBERS[path.stem])


TABLES = {
    "sweep": sweep,
    "tuning": tuning,
    "resources": committed("reports/resources/sm_90.csv", resources.read),
    "compiled": committed("reports/resources/variants_sm_90.csv", compiled.read_compiled),
    "language": committed("reports/language/rows/curve.csv", language_rows),
}


@pytest.fixture(params=TABLES)
def table(request, tmp_path):
    """A file of at least four rows, and what reads it."""
    return TABLES[request.param](tmp_path)


def test_a_mark_of_byte_order_and_other_ends_of_lines_are_accepted(table):
    path, read = table
    before, content = read(path), path.read_bytes()
    for changed in (b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n")):
        path.write_bytes(changed)
        pd.testing.assert_frame_equal(read(path), before)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda line: line[:3] + b"\xff" + line[3:], "it has a byte that is not UTF-8, 0xff"),
        (lambda line: b"\0" * 64 + line, "it has zero bytes"),
        (lambda line: b"\0" * len(line), "it has zero bytes"),
        (lambda line: line[: len(line) // 2], " fields, and the header "),
        (lambda line: b'"' + b"x" * 200_000 + line, "it is no line of a CSV: field larger than field limit"),
    ],
)
def test_a_damaged_line_costs_no_other(table, damage, why, capsys):
    path, read = table
    before = read(path)
    assert len(before) >= 4
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage(lines[2])
    path.write_bytes(b"\n".join(lines))
    after = read(path)
    left = before.drop(index=before.index[1]).reset_index(drop=True)
    pd.testing.assert_frame_equal(after.reset_index(drop=True), left)
    said = "\n".join(after.attrs.get("skipped", [])) + capsys.readouterr().err
    assert "line 3: " in said
    assert why in said


def test_text_for_a_number_is_named(tmp_path):
    path, read = tuning(tmp_path)
    path.write_text(path.read_text().replace("0.5", "half", 1))
    rows = read(path)
    assert rows["variant"].tolist() == ["two", "three", "four"]
    assert rows.attrs["skipped"] == ["line 2: ratio must be a number. Got 'half'"]


def test_costs_are_written_without_damaged_rows_and_say_so(tmp_path, capsys):
    path, _ = sweep(tmp_path)
    measured = tmp_path / "measured.csv"
    measured.write_text("device,driver,cell,dtype,mode,H,B,us\nA,step,lstm,float32,forward,8,2,1.25\nB,st\0ep,l\n")
    lines = path.read_bytes().split(b"\n")
    lines[3] = b"\xff" + lines[3]
    path.write_bytes(b"\n".join(lines))
    measured_costs.write([path], measured)
    said = capsys.readouterr().err
    assert f"{path}, left out: line 4: it has a byte that is not UTF-8" in said
    assert f"{measured}, left out: line 3: it has zero bytes" in said
    rows = list(csv.DictReader(measured.read_text().splitlines()))
    assert rows[0] == dict(zip(rows[0], ["A", "step", "lstm", "float32", "forward", "8", "2", "1.25"], strict=True))
    assert {row["device"] for row in rows} == {"A", "Some GPU"}


def test_a_line_is_added_after_whole_ones_alone(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    append(path, "1,2\n", "a,b\n")
    append(path, "3,4\n", "a,b\n")
    assert path.read_text() == "a,b\n1,2\n3,4\n"
    assert capsys.readouterr().err == ""
    for rest in ("5,", "5" * 200_000, "\0" * 100, "é"[:1]):
        path.write_text(f"a,b\n1,2\n{rest}")
        append(path, "7,8\n", "a,b\n")
        assert path.read_text() == "a,b\n1,2\n7,8\n"
        assert f"gatefuse.bench: {path}, left out: its last line is cut off: " in capsys.readouterr().err
    path.write_text("a,")
    append(path, "7,8\n", "a,b\n")
    assert path.read_text() == "a,b\n7,8\n"


def test_a_resumed_table_names_what_it_leaves_out(tmp_path, capsys):
    path, _ = sweep(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines)[:-40])
    table = sweep_table.Table(path, {"commit": "c0ffee", "device": "some-gpu"}, resume=True)
    table.close()
    assert f"{path}, left out: line {len(lines)}: it is cut off" in capsys.readouterr().err


FULL = """
import resource, sys
from pathlib import Path
from bench.storage.csv_lines import append
path = Path(sys.argv[1])
room = path.stat().st_size + 10 if path.exists() else 10
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
try:
    append(path, "x" * 100 + "\\n", "header\\n")
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("before", ["", "header\n", "header\n" + "whole\n" * 5000, "header\nhalf"])
def test_a_line_that_does_not_fit_is_cut_back(tmp_path, before):
    path = tmp_path / "rows.csv"
    path.write_text(before)
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n", done.stderr
    assert path.read_text() == before.removesuffix("half")
    append(path, "next\n", "header\n")
    assert read_lines(path, ["header"])[1] == {}


def test_many_at_once_lose_no_line(tmp_path):
    path = tmp_path / "rows.csv"
    program = f"""
import sys
from pathlib import Path
from bench.storage.csv_lines import append
for k in range(200):
    append(Path({str(path)!r}), sys.argv[1] * 5000 + "\\n", "header\\n")
"""
    workers = [subprocess.Popen([sys.executable, "-c", program, letter], cwd=ROOT) for letter in "abc"]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0]
    header, *lines = path.read_text().splitlines()
    assert header == "header"
    assert sorted(lines) == sorted([letter * 5000 for letter in "abc"] * 200)

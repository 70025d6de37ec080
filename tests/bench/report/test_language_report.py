"""The language models' report: rows, table and plot, and that the committed page follows from the committed rows."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from gatefuse.bench.language.report import NUMBERS, measure, measure_speed, report
from gatefuse.bench.language.runs import CHARACTERS, SCRATCH, WORDS, check
from gatefuse.bench.report.document.drawing import drawn_by
from gatefuse.bench.report.document.figures import times
from gatefuse.models.language.__main__ import main
from gatefuse.models.language.corpus import Text

FOLDER = Path(__file__).resolve().parents[3] / "reports" / "language"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A report of the least work: a text of one batch."""
    folder = tmp_path_factory.mktemp("reports") / "language"
    text = Text("the quick brown fox jumps over the lazy dog " * 40, "a | fox")
    measure_speed(folder, text, 2, threads=(1,))
    measure(folder, text, 2, 1)
    return folder


@pytest.mark.slow
def test_rows_and_page(measured, capsys):
    main(["report", "--reports", str(measured)])
    assert capsys.readouterr().out == f"{measured / 'language.md'}\n"
    runs = pd.read_csv(measured / "rows" / "runs.csv")
    assert list(runs["name"]) == [*(run.name for run in CHARACTERS), WORDS.name]
    assert list(runs["epochs"]) == [2, 2, 2, 2, 2, 1]
    curve = pd.read_csv(measured / "rows" / "curve.csv")
    assert len(curve) == 11
    assert (curve["perplexity"] > 1).all()
    page = (measured / "language.md").read_text()
    assert "Text: a | fox." in page
    assert page.count(", missed |") + page.count(", met |") == 6
    assert "LSTM of 2 layers: as the book does, at a learning rate of 2." in page
    assert "The run had time for 2 of the book's 500 epochs." in page
    assert "![Perplexity over epochs, by characters and by words](language.svg)" in page
    (line,) = [line for line in page.splitlines() if re.match(r"\| LSTM layer \| \d", line)]
    speeds = pd.read_csv(measured / "rows" / "speed.csv")
    assert set(speeds["threads"]) == {1}
    one = speeds[speeds["threads"] == 1].pivot(index="epoch", columns="name", values="tokens_per_second")
    assert len(one) == 2
    assert times((one["LSTM layer"] / one[SCRATCH.name]).mean()) + " (" in line
    svg = (measured / "language.svg").read_bytes()
    report(measured)
    assert (measured / "language.svg").read_bytes() == svg


def test_rows_that_are_none(tmp_path, capsys):
    each = dict.fromkeys(name for columns in NUMBERS.values() for some in columns for name in some)
    for content, message in (
        (None, "No such file or directory"),
        ("", "runs.csv must hold a header and rows. Got an empty file."),
        ("a,b\n1,2\n", "runs.csv must have the columns tokens, vocabulary, "),
        (",".join(each) + "\n", "rows must be those that measure wrote. Got others in "),
    ):
        if content is not None:
            (tmp_path / "rows").mkdir(exist_ok=True)
            for name in ("runs", "curve", "speed"):
                (tmp_path / "rows" / f"{name}.csv").write_text(content)
        with pytest.raises(SystemExit) as stop:
            main(["report", "--reports", str(tmp_path)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_what_cant_be_measured_leaves_the_rows_of_before(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "speed.csv").write_text("as it was")
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "words.txt").write_text("letters" * 1000)
    for options, message in (
        (["--text", "python", "--epochs", "0"], "epochs must be at least 1. Got 0."),
        (["--text", "python", "--word-epochs", "0"], "word_epochs must be at least 1. Got 0."),
        (["--text", "short.txt"], "text must have at least 1156 tokens "),
        (
            ["--text", "words.txt"],
            "text must have at least 331 tokens for one batch of 32 sequences of 10 steps. Got 1",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["measure", "--reports", str(tmp_path), *options])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert (tmp_path / "rows" / "speed.csv").read_text() == "as it was"


def test_a_measurement_stops_when_its_time_is_spent(tmp_path):
    measure(tmp_path, Text("the quick brown fox jumps over the lazy dog " * 40, "a fox"), 50, 50, seconds=0.0)
    assert set(pd.read_csv(tmp_path / "rows" / "runs.csv")["epochs"]) == {1}


@pytest.mark.skipif(not FOLDER.exists(), reason="no report is committed")
def test_the_committed_report_follows_from_its_rows(tmp_path):
    shutil.copytree(FOLDER / "rows", tmp_path / "rows")
    report(tmp_path)
    assert (tmp_path / "language.md").read_text() == (FOLDER / "language.md").read_text()
    if drawn_by() in (FOLDER / "language.svg").read_bytes():
        assert (tmp_path / "language.svg").read_bytes() == (FOLDER / "language.svg").read_bytes()


def test_how_much_of_the_text_is_measured():
    found = check(Text("the quick brown fox jumps over the lazy dog\n" * 1000, "a fox"), 1, 1)
    assert found == ["the first 10000 of 43000 chars", "the first 5000 of 9000 words"]
